"""The PCA control: principal components, quantised until they take a given rate."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

_BITS_PER_DIM = 6
"""The curve ends at this mean rate; what lies beyond is extrapolated."""
_STEP = 2**0.25
_MAX_BINS = 1 << 22
"""The curve also ends where more bins than this would be counted (32 MiB), or symbols
have more digits than float32: rows of few values or without variance in a component may
never reach that rate."""


class PCA(NamedTuple):
    """Principal components of a sample of rows, in float64, largest first."""

    mean: Float64[Tensor, " d_in"]
    components: Float64[Tensor, "d_in d_in"]
    """Orthonormal rows; the largest entry of each is positive, so signs are fixed."""
    eigenvalues: Float64[Tensor, " d_in"]


class RateCurve(NamedTuple):
    """The rate of quantised components at decreasing bin widths."""

    width: Float64[Tensor, " step"]
    rate_bits: Float64[Tensor, " step"]


def fit(rows: Float[Tensor, "batch d_in"], *, mean: Float64[Tensor, " d_in"]) -> PCA:
    """Return the principal components of the rows about the given mean."""
    centred = rows.double() - mean
    eigenvalues, vectors = torch.linalg.eigh(centred.T @ centred / len(rows))
    components = vectors.flip(1).T
    largest = components.abs().argmax(1, keepdim=True)
    components = components * components.gather(1, largest).sign()
    return PCA(mean, components.contiguous(), eigenvalues.flip(0).clamp(min=0))


def rate_curve(pca: PCA, x: Float[Tensor, "batch d_in"]) -> RateCurve:
    """Return the sum of the entropies of the components at a range of bin widths."""
    scores = pca.components.float() @ (x - pca.mean.float()).T
    spread = float((scores.amax(1) - scores.amin(1)).sum())
    largest = float(scores.abs().max())
    width = 2 * largest
    widths, rates = [width], [0.0]
    while width > 0 and rates[-1] < _BITS_PER_DIM * len(scores):
        width /= _STEP
        if max(spread, largest) / width > _MAX_BINS:
            break
        widths.append(width)
        rates.append(_entropy_bits(scores, width))
    return RateCurve(
        torch.tensor(widths, dtype=torch.float64),
        torch.tensor(rates, dtype=torch.float64),
    )


def width_at(curve: RateCurve, rate_bits: float, *, num_components: int) -> float:
    """Return the bin width at which the components take a rate, off the curve.

    Beyond the curve each halving is worth one bit a component, as in the limit of
    narrow bins (Bennett 1948).
    """
    rates = np.maximum.accumulate(curve.rate_bits.numpy())
    octaves = np.log2(np.maximum(curve.width.numpy(), np.finfo(np.float32).tiny))
    octave = np.interp(rate_bits, rates, octaves)
    beyond = max(0.0, rate_bits - rates[-1]) / num_components
    return float(2 ** (octave - beyond))


@dataclass(frozen=True)
class QuantisedPCA:
    """A code whose latents are the components, rounded to a multiple of the width."""

    mean: Float[Tensor, " d_in"]
    W_dec: Float[Tensor, "d_in d_in"]
    """The components, one a row."""
    width: float

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_in"]:
        """Return the rounded scores; most are zero at a low rate."""
        return ((x - self.mean) @ self.W_dec.T / self.width).round() * self.width

    def decode(self, acts: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_in"]:
        """Return the reconstruction from rounded scores."""
        return acts @ self.W_dec + self.mean


def _entropy_bits(scores: Float[Tensor, "d_in batch"], width: float) -> float:
    """Return the sum over components of the entropy of the rounded scores."""
    symbol = (scores / width).round_().int()
    low = symbol.amin(1)
    span = symbol.amax(1) - low + 1
    symbol += (span.cumsum(0) - span - low)[:, None]
    count = torch.bincount(symbol.reshape(-1))
    share = count[count > 0].double() / scores.shape[1]
    return float(-(share * share.log2()).sum())
