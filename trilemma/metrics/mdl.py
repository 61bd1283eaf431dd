"""The epsilon-MDL choice: of SAEs that lose at most epsilon, the one of fewest bits."""

from collections.abc import Mapping
from itertools import pairwise, permutations
from typing import NamedTuple

import numpy as np

from trilemma.metrics import rate_curve
from trilemma.metrics.rate_curve import RateCurve


class Choice(NamedTuple):
    """A range of tolerances over which one SAE has the least description length."""

    name: str
    low: float
    """Least `fvu` that is tolerated in this range."""
    high: float | None
    """Where the next range begins; None for the last."""
    rate_bits: float
    """What the SAE takes at `low`; less where more is tolerated."""


def choices(curves: Mapping[str, RateCurve]) -> list[Choice]:
    """Return the SAE of least rate for every tolerance, from tight to loose.

    Ayonrinde, Pearce and Sharkey 2024: the MDL at epsilon is the least description
    length among SAEs whose loss is at most epsilon. Here the loss is the `fvu` of the
    quantised code, and each SAE may use the coarsest bins that keep within it, so the
    choices are the lower envelope of the curves (derived).
    """
    curves = {name: curve for name, curve in curves.items() if len(curve.fvu) > 0}
    names = list(curves)
    corners = [curve.fvu for curve in curves.values()]
    for name, other in permutations(names, 2):
        met = rate_curve.crossings(curves[name], curves[other])
        corners.append(np.array([crossing.fvu for crossing in met]))
        # At its least rate a curve ends in a wall, which others may cross.
        wall = curves[name].rate_bits.min(keepdims=True)
        corners.append(rate_curve.lowest_fvu(curves[other], wall))
    if not names:
        return []
    # Between neighbouring corners no two curves cross, so one tolerance tells for all.
    edges = np.unique(np.concatenate(corners))
    edges = edges[(edges > 0) & np.isfinite(edges)]
    edges = np.append(edges, 2 * edges[-1])
    middles = np.sqrt(edges[:-1] * edges[1:])
    rates = np.stack([rate_curve.least_rate(curves[n], middles) for n in names])
    best = rates.argmin(0)
    starts = [0, *(np.flatnonzero(np.diff(best)) + 1), len(best)]
    return [
        Choice(
            name=names[best[start]],
            low=float(edges[start]),
            high=None if stop == len(best) else float(edges[stop]),
            rate_bits=_least_rate(curves[names[best[start]]], float(edges[start])),
        )
        for start, stop in pairwise(starts)
    ]


def _least_rate(curve: RateCurve, fvu: float) -> float:
    # A corner where curves cross may be a rounding below the least fvu of this one.
    within = np.maximum(np.array([fvu]), curve.fvu.min())
    return float(rate_curve.least_rate(curve, within)[0])
