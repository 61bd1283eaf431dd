"""Fronts under uncertainty: who dominates whom, and how much a family covers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from trilemma.metrics import intervals
from trilemma.metrics.parts import Estimate

_LEAST = 1e-300
"""Stands for a reference of zero, where no SAE costs anything: all are at its best."""


class Dominance(NamedTuple):
    """How often each SAE of a family is no worse than another on every axis."""

    probability: Float64[np.ndarray, "sae sae"]
    """Row over column: the share of resamples in which the row dominates."""
    is_on_front: Float64[np.ndarray, " sae"]
    """The share of resamples in which no other dominates it."""


def resample(
    estimates: Sequence[Sequence[Sequence[Estimate]]], *, num_resamples: int, seed: int
) -> Float64[np.ndarray, "resample sae axis"]:
    """Return the values of all SAEs on the same resamples of blocks of documents.

    `estimates[i][s][a]` is seed s of SAE i on axis a; a value is the mean over seeds,
    which are drawn with replacement too. A seed's deviation from the mean grows by
    sqrt(n / (n - 1)), as those of blocks do.
    """
    saes = []
    for index, sae in enumerate(estimates):
        drawn = np.array(
            [
                [e.resampled(num_resamples=num_resamples, seed=seed) for e in axes]
                for axes in sae
            ]
        )
        values = np.array([[estimate.value for estimate in axes] for axes in sae])
        shift = intervals.resampled_sums(
            (values - values.mean(0)) / len(sae),
            num_resamples=num_resamples,
            seed=seed + 1 + index,
        )
        scale = (len(sae) / max(len(sae) - 1, 1)) ** 0.5
        saes.append(drawn.mean(0).T + scale * shift)
    return np.stack(saes, axis=1)


def dominance(draws: Float64[np.ndarray, "resample sae axis"]) -> Dominance:
    """Return how often each SAE dominates each other, all axes being costs."""
    dominated = np.stack(
        [
            (draws[:, i, None] <= draws).all(2) & (draws[:, i, None] < draws).any(2)
            for i in range(draws.shape[1])
        ],
        axis=1,
    )
    return Dominance(dominated.mean(0), (~dominated.any(1)).mean(0))


def front(values: Float64[np.ndarray, "sae axis"]) -> Bool[np.ndarray, " sae"]:
    """Return which SAEs no other dominates."""
    is_on_front: Bool[np.ndarray, " sae"] = dominance(values[None]).is_on_front == 1
    return is_on_front


def hypervolume(
    draws: Float64[np.ndarray, "resample sae 3"],
    *,
    reference: Float64[np.ndarray, "3"],
) -> Float64[np.ndarray, " resample"]:
    """Return the share of the box from zero to the reference that SAEs dominate.

    All three axes are costs of at least zero; an SAE beyond the reference on any adds
    nothing (Zitzler and Thiele 1998). The volume is summed in slabs of the third axis.
    """
    points = np.clip(draws / np.maximum(reference, _LEAST), 0.0, 1.0)
    depth_order = points[:, :, 2].argsort(1)
    points = np.take_along_axis(points, depth_order[:, :, None], axis=1)
    depth = np.concatenate([points[:, :, 2], np.ones_like(points[:, :1, 2])], axis=1)
    across = points[:, :, 0].argsort(1)
    x = np.take_along_axis(points[:, :, 0], across, axis=1)
    y = np.take_along_axis(points[:, :, 1], across, axis=1)
    width = np.diff(np.concatenate([x, np.ones_like(x[:, :1])], axis=1), axis=1)
    total = np.zeros(len(points))
    for count in range(1, points.shape[1] + 1):
        # Only the SAEs that reach into this slab hide its floor.
        lowest = np.minimum.accumulate(np.where(across < count, y, 1.0), axis=1)
        area = (width * (1 - lowest)).sum(1)
        total += area * (depth[:, count] - depth[:, count - 1])
    return total
