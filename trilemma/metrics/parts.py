"""What is kept of a metric so that it can be paired with another SAE's: its parts.

A metric that is a ratio of sums keeps both sums of each document. One that is not
keeps its value without each block of documents in turn.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from trilemma.metrics import intervals
from trilemma.metrics.intervals import NUM_BLOCKS

Arrays = dict[str, Float64[np.ndarray, " any"]]
_NUM, _DEN, _LEFT_OUT, _SIZES = "num", "den", "left_out", "sizes"


class Estimate(NamedTuple):
    """A value, and how each block of documents moved it."""

    value: float
    influence: Float64[np.ndarray, " block"]
    """To first order, what the block added to the value; they sum to zero."""
    sizes: Float64[np.ndarray, " block"]
    """How much of the sample the block is."""
    sums: Float64[np.ndarray, "block 2"] | None = None
    """Both sums of each block, for a ratio of sums."""

    def resampled(
        self, *, num_resamples: int, seed: int
    ) -> Float64[np.ndarray, " resample"]:
        """Return the value on blocks drawn with replacement.

        A ratio is that of the drawn sums; another value moves by the drawn influences.
        Equal seeds draw equal blocks, so SAEs move together. Deviations grow by
        sqrt(B / (B - 1)), so that their variance is the one of differences.
        """
        num_blocks = len(self.influence)
        scale = (num_blocks / max(num_blocks - 1, 1)) ** 0.5
        columns = self.influence[:, None] if self.sums is None else self.sums
        drawn = intervals.resampled_sums(
            columns, num_resamples=num_resamples, seed=seed
        )
        moved: Float64[np.ndarray, " resample"] = drawn[:, 0]
        if self.sums is not None:
            num, den = drawn.T
            ratio = num / np.where(den > 0, den, 1.0)
            moved = np.where(den > 0, ratio - self.value, 0.0)
        found: Float64[np.ndarray, " resample"] = self.value + scale * moved
        return found


def of_ratio(
    name: str,
    num: Float64[np.ndarray, " document"],
    den: Float64[np.ndarray, " document"],
) -> Arrays:
    """Return the parts of `sum(num) / sum(den)`."""
    # A safetensors file takes the bytes as they lie, so a strided view would be wrong.
    return {
        f"{name}.{_NUM}": np.ascontiguousarray(num),
        f"{name}.{_DEN}": np.ascontiguousarray(den),
    }


def of_left_out(
    name: str,
    left_out: Float64[np.ndarray, " block"],
    sizes: Float64[np.ndarray, " block"],
) -> Arrays:
    """Return the parts of what is known without each block of documents in turn.

    `sizes` are the blocks' shares of the sample, in any unit.
    """
    return {
        f"{name}.{_LEFT_OUT}": np.ascontiguousarray(left_out),
        f"{name}.{_SIZES}": np.ascontiguousarray(sizes),
    }


def of_controls(found: Mapping[str, Arrays]) -> Arrays:
    """Return the parts of controls' metrics, named to be kept beside their SAE's."""
    return {
        f"{control}.{name}": array
        for control, arrays in found.items()
        for name, array in arrays.items()
    }


def estimate(
    parts: Mapping[str, Float64[np.ndarray, " any"]],
    name: str,
    *,
    value: float | None,
) -> Estimate | None:
    """Return a metric and its influences; None where these are not known.

    Document i belongs to block i modulo 20, for every SAE of a hook.
    """
    if value is None:
        return None
    if f"{name}.{_LEFT_OUT}" in parts:
        left_out = parts[f"{name}.{_LEFT_OUT}"]
        if np.isnan(left_out).any():  # nothing fires outside one of the blocks
            return None
        sizes = parts[f"{name}.{_SIZES}"]
        moved = intervals.influences(value, left_out, sizes)
        return Estimate(value, np.nan_to_num(moved), sizes)
    if f"{name}.{_NUM}" not in parts:
        return None
    num, den = parts[f"{name}.{_NUM}"], parts[f"{name}.{_DEN}"]
    block = np.arange(len(num)) % NUM_BLOCKS
    sums = np.stack([np.bincount(block, num), np.bincount(block, den)], axis=1)
    influence = (sums[:, 0] - value * sums[:, 1]) / sums[:, 1].sum()
    return Estimate(value, influence, sums[:, 1], sums)
