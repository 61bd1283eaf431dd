"""Pairs that share no member and together weigh the most: a maximum-weight matching."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import optimize, sparse

_MOST_PAIRS = 10_000
"""Connected pairs up to which the choice is an integer program (some 2 s)."""
_MOST_NODES = 100
"""Relaxations after which such a program is given up."""
_SCALE = 1e6
"""The heaviest pair's weight in a program, which is solved to 1e-6 of its objective."""


class Matching(NamedTuple):
    """Pairs of which no two share a member."""

    taken: Bool[np.ndarray, " pair"]
    is_heaviest: bool
    """Whether none is heavier; if not, it has half of the heaviest one's weight or
    more."""


def heaviest(
    pairs: Int64[np.ndarray, "pair 2"], weights: Float64[np.ndarray, " pair"]
) -> Matching:
    """Return the heaviest set in which no member stands twice.

    Pairs whose weight is not above zero are never taken. Pairs that are connected are
    chosen among on their own: by an integer program, so that it is the maximum, or,
    where they are too many, greedily, which can miss half of it.
    """
    taken = np.zeros(len(pairs), dtype=bool)
    useful = np.flatnonzero(weights > 0)
    is_heaviest = True
    for part in _components(pairs[useful]):
        at = useful[part]
        chosen = _solved(pairs[at], weights[at])
        if chosen is None:
            is_heaviest = False
            chosen = _greedy(pairs[at], weights[at])
        taken[at] = chosen
    return Matching(taken, is_heaviest)


def _components(
    pairs: Int64[np.ndarray, "pair 2"],
) -> list[Int64[np.ndarray, " part"]]:
    """Return the indices of pairs that are connected, for each such set."""
    if len(pairs) == 0:
        return []
    members, index = np.unique(pairs, return_inverse=True)
    first, second = index.reshape(-1, 2).T
    graph = sparse.coo_array(
        (np.ones(len(pairs)), (first, second)), shape=(len(members), len(members))
    )
    label = sparse.csgraph.connected_components(graph, directed=False)[1][first]
    order = np.argsort(label, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(label[order])) + 1)


def _solved(
    pairs: Int64[np.ndarray, "pair 2"], weights: Float64[np.ndarray, " pair"]
) -> Bool[np.ndarray, " pair"] | None:
    """Return the heaviest of connected pairs; None where that is too much work."""
    members, index = np.unique(pairs, return_inverse=True)
    if len(members) // 2 == 1:  # There is room for one pair.
        one: Bool[np.ndarray, " pair"] = np.arange(len(pairs)) == weights.argmax()
        return one
    if len(pairs) > _MOST_PAIRS:
        return None
    pair = np.repeat(np.arange(len(pairs)), 2)
    contains = sparse.csr_array(
        (np.ones(len(pair)), (index.reshape(-1), pair)),
        shape=(len(members), len(pairs)),
    )
    found = optimize.milp(
        -weights * (_SCALE / weights.max()),
        integrality=np.ones(len(pairs)),
        bounds=optimize.Bounds(0, 1),
        constraints=optimize.LinearConstraint(contains, -np.inf, 1),
        # scipy's own default accepts a set that is 0.01 % too light. A limit on time
        # would let the machine decide what is found.
        options={"mip_rel_gap": 0.0, "node_limit": _MOST_NODES},
    )
    return found.x > 1 / 2 if found.success else None


def _greedy(
    pairs: Int64[np.ndarray, "pair 2"], weights: Float64[np.ndarray, " pair"]
) -> Bool[np.ndarray, " pair"]:
    """Return the pairs that are taken, heaviest first, if their members are free."""
    taken, used = np.zeros(len(pairs), dtype=bool), set[int]()
    for at in np.argsort(-weights, kind="stable"):
        if used.isdisjoint(pairs[at].tolist()):
            taken[at] = True
            used.update(pairs[at].tolist())
    return taken
