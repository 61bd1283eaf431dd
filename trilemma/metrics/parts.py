"""What is kept of a metric so that it can be paired with another SAE's: its parts.

A metric that is a ratio of sums keeps both sums of each document. One that is not
keeps its value without each block of documents in turn.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from trilemma.metrics.tally import NUM_BLOCKS

Arrays = dict[str, Float64[np.ndarray, " any"]]
_NUM, _DEN, _LEFT_OUT = "num", "den", "left_out"


class Estimate(NamedTuple):
    """A value, and how each block of documents moved it."""

    value: float
    influence: Float64[np.ndarray, " block"]
    """To first order, what the block added to the value; they sum to zero."""


def of_ratio(
    name: str,
    num: Float64[np.ndarray, " document"],
    den: Float64[np.ndarray, " document"],
) -> Arrays:
    """Return the parts of `sum(num) / sum(den)`."""
    return {f"{name}.{_NUM}": num, f"{name}.{_DEN}": den}


def of_left_out(name: str, left_out: Float64[np.ndarray, " block"]) -> Arrays:
    """Return the parts of what is known without each block of documents in turn."""
    return {f"{name}.{_LEFT_OUT}": left_out}


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
        # The jackknife's variance, written as a sum over blocks (Efron and Stein 1981).
        share = (len(left_out) - 1) / len(left_out)
        return Estimate(value, (left_out.mean() - left_out) * share)
    if f"{name}.{_NUM}" not in parts:
        return None
    num, den = parts[f"{name}.{_NUM}"], parts[f"{name}.{_DEN}"]
    num_blocks = min(NUM_BLOCKS, len(num))
    moved = (num - value * den) / den.sum()
    block = np.arange(len(num)) % NUM_BLOCKS
    return Estimate(value, np.bincount(block, moved, minlength=num_blocks))
