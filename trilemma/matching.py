"""Pairs that share no member and together weigh the most: a maximum-weight matching."""

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import optimize, sparse


def heaviest(
    pairs: Int64[np.ndarray, "pair 2"], weights: Float64[np.ndarray, " pair"]
) -> Bool[np.ndarray, " pair"]:
    """Return which pairs form the heaviest set in which no member stands twice.

    Pairs whose weight is not above zero are never taken. It is found as an integer
    program, so it is the maximum and not a greedy choice, which can miss half of it.
    """
    taken = np.zeros(len(pairs), dtype=bool)
    useful = np.flatnonzero(weights > 0)
    if len(useful) == 0:
        return taken
    members, index = np.unique(pairs[useful], return_inverse=True)
    pair = np.repeat(np.arange(len(useful)), 2)
    contains = sparse.csr_array(
        (np.ones(len(pair)), (index.reshape(-1), pair)),
        shape=(len(members), len(useful)),
    )
    found = optimize.milp(
        -weights[useful] / weights[useful].max(),
        integrality=np.ones(len(useful)),
        bounds=optimize.Bounds(0, 1),
        constraints=optimize.LinearConstraint(contains, -np.inf, 1),
        # scipy's own default accepts a set that is 0.01 % too light.
        options={"mip_rel_gap": 0.0},
    )
    assert found.success, found.message
    taken[useful] = found.x > 1 / 2
    return taken
