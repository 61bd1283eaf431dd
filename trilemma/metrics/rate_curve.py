"""The whole rate-distortion curve of one SAE, as the width of its bins varies."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from trilemma.metrics import rate

_FINEST = 4.0
"""The curve begins at the headline's bin width over this, where quantising costs about
a sixteenth of the headline's tolerance."""
_STEP = 2**0.5
_LEAST = 1e-12
"""Stands for an fvu of zero, which has no logarithm."""


class RateCurve(NamedTuple):
    """Points of one SAE's curve, from fine bins to coarse ones."""

    bin_width: Float64[np.ndarray, " point"]
    rate_bits: Float64[np.ndarray, " point"]
    fvu: Float64[np.ndarray, " point"]


class Crossing(NamedTuple):
    """Where two curves meet: left and right of it another SAE has the lower fvu."""

    rate_bits: float
    fvu: float
    first_is_lower_above: bool
    """Whether the first of the two has the lower fvu at higher rates."""


def curve(
    codes: rate.Codes, trial: rate.Trial, *, width: float, fvu: float
) -> RateCurve:
    """Return rate and `fvu` at bin widths from a quarter of `width` up.

    It ends where one bin holds all activations of every latent, so that only the
    support is left to code, or where the quantised code reconstructs no better than
    the mean. `fvu` is the SAE's own, plus the rise on the probes.
    """
    points: list[tuple[float, float, float]] = []
    at, last = width / _FINEST, float(codes.value.max()) * _STEP
    while at < last:
        quantised = fvu + trial.rise(at) / trial.squared_deviation
        if quantised >= 1 and points:
            break
        length = rate.code_length(codes, rate.symbols(codes, at))
        points.append((at, float(length.latent_bits.sum()), quantised))
        at *= _STEP
    return RateCurve(*np.array(points).reshape(-1, 3).T)


def lowest_fvu(
    found: RateCurve, rate_bits: Float64[np.ndarray, " at"]
) -> Float64[np.ndarray, " at"]:
    """Return the lowest `fvu` within a rate, between points along a straight line.

    The line is that of log fvu over rate. Below the curve's least rate nothing is
    reached (infinity); beyond its greatest, finer bins buy nothing.
    """
    order = np.argsort(found.rate_bits, kind="stable")
    rates = found.rate_bits[order]
    fvus = np.maximum(np.minimum.accumulate(found.fvu[order]), _LEAST)
    reached = np.exp(np.interp(rate_bits, rates, np.log(fvus)))
    # exp(log(x)) may be below x, which no rate would reach.
    reached = np.maximum(reached, fvus[-1])
    return np.where(rate_bits < rates[0], np.inf, reached)


def least_rate(
    found: RateCurve, fvu: Float64[np.ndarray, " at"]
) -> Float64[np.ndarray, " at"]:
    """Return the least rate that keeps within an `fvu`, the inverse of `lowest_fvu`.

    An `fvu` below all of the curve's takes an infinite rate.
    """
    order = np.argsort(found.rate_bits, kind="stable")
    fvus = np.maximum(np.minimum.accumulate(found.fvu[order]), _LEAST)
    # Of points with the same fvu the first, cheapest one stands.
    levels, first = np.unique(fvus, return_index=True)
    rates = np.interp(np.log(fvu), np.log(levels), found.rate_bits[order][first])
    return np.where(fvu < levels[0], np.inf, rates)


def crossings(first: RateCurve, second: RateCurve) -> list[Crossing]:
    """Return where two curves cross within the rates that both reach."""
    low = max(first.rate_bits.min(), second.rate_bits.min())
    high = min(first.rate_bits.max(), second.rate_bits.max())
    corners = np.concatenate([first.rate_bits, second.rate_bits, [low, high]])
    rates = np.unique(corners[(corners >= low) & (corners <= high)])
    one, other = lowest_fvu(first, rates), lowest_fvu(second, rates)
    gap = np.log(one) - np.log(other)
    kept = gap != 0
    rates, gap, one = rates[kept], gap[kept], one[kept]
    found = []
    for i in np.flatnonzero(np.sign(gap[:-1]) != np.sign(gap[1:])):
        # Both logarithms are straight between corners, so the meeting is exact.
        share = gap[i] / (gap[i] - gap[i + 1])
        found.append(
            Crossing(
                rate_bits=float(rates[i] + share * (rates[i + 1] - rates[i])),
                fvu=float(one[i] * (one[i + 1] / one[i]) ** share),
                first_is_lower_above=bool(gap[i + 1] < 0),
            )
        )
    return found
