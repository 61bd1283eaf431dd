"""Families at one rate: distortion and polysemanticity between their members."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from trilemma.metrics import comparison
from trilemma.metrics.comparison import Difference


class Matched(NamedTuple):
    """Two families at the same rate."""

    rate_bits: float
    first: Float64[np.ndarray, " axis"]
    second: Float64[np.ndarray, " axis"]
    differences: list[Difference]
    """The first less the second on each axis; the standard error is the deviation of
    resamples, and the interval Student's t."""


def common_rate(
    first: Float64[np.ndarray, " member"], second: Float64[np.ndarray, " member"]
) -> float | None:
    """Return the middle, in octaves, of the rates that both families span.

    None where a family has one member, or they have no rate above zero in common.
    """
    low = max(first.min(), second.min())
    high = min(first.max(), second.max())
    is_silent = min(first.min(), second.min()) <= 0
    if is_silent or low > high or min(len(first), len(second)) <= 1:
        return None
    return float(np.sqrt(low * high))


def compare(
    first: Float64[np.ndarray, "resample member axis"],
    second: Float64[np.ndarray, "resample member axis"],
    *,
    values: tuple[
        Float64[np.ndarray, "member axis"], Float64[np.ndarray, "member axis"]
    ],
    rate_bits: float,
    num_blocks: int,
) -> Matched:
    """Return both families at a rate, the first axis, with intervals by resamples.

    Each resample moves rates and what stands over them alike, and the families are
    read off at the same rate in each; `num_blocks` of documents were drawn. Between
    members the other axes are straight lines over log rate. Few blocks may move a rate
    to zero or below, which has no logarithm: then there are no intervals.
    """
    ours, theirs = (at_rate(side, rate_bits) for side in values)
    if min(first[..., 0].min(), second[..., 0].min()) <= 0:
        unknown = [Difference(float(v), None, None, None) for v in ours - theirs]
        return Matched(rate_bits, ours, theirs, unknown)
    moved = np.stack(
        [
            at_rate(one, rate_bits) - at_rate(other, rate_bits)
            for one, other in zip(first, second, strict=True)
        ]
    )
    differences = [
        comparison.from_resamples(float(value), axis, num_blocks=num_blocks)
        for value, axis in zip(ours - theirs, moved.T, strict=True)
    ]
    return Matched(rate_bits, ours, theirs, differences)


def at_rate(
    members: Float64[np.ndarray, "member axis"], rate_bits: float
) -> Float64[np.ndarray, " other"]:
    """Return the axes after the first, interpolated at a value of the first.

    Of members at one rate it takes the mean.
    """
    rates, which, counts = np.unique(
        members[:, 0], return_inverse=True, return_counts=True
    )
    means = [np.bincount(which, axis) / counts for axis in members.T[1:]]
    return np.array(
        [np.interp(np.log2(rate_bits), np.log2(rates), axis) for axis in means]
    )
