"""The PCA control: principal components, quantised until they take a given rate."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

_BITS_PER_DIM = 6
"""The curve ends at this mean rate; a higher one is extrapolated at its slope."""
_STEP = 2**0.25
_MAX_STEPS = 60
"""So at most 2^15 bins for the widest component: components without variance take no
bits at any width, and the target may be out of reach."""


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
    width = 2 * float(scores.abs().max())
    widths, rates = [], []
    for _ in range(_MAX_STEPS):
        widths.append(width)
        rates.append(_entropy_bits(scores, width))
        if rates[-1] >= _BITS_PER_DIM * len(scores) or width == 0:
            break
        width /= _STEP
    return RateCurve(
        torch.tensor(widths, dtype=torch.float64),
        torch.tensor(rates, dtype=torch.float64),
    )


def width_at(curve: RateCurve, rate_bits: float) -> float:
    """Return the bin width at which the components take a rate, off the curve."""
    rates = np.maximum.accumulate(curve.rate_bits.numpy())
    octaves = np.log2(np.maximum(curve.width.numpy(), np.finfo(np.float64).tiny))
    if rate_bits <= rates[-1] or len(rates) == 1:
        return float(2 ** np.interp(rate_bits, rates, octaves))
    slope = (octaves[-1] - octaves[-2]) / max(rates[-1] - rates[-2], 1e-12)
    return float(2 ** (octaves[-1] + slope * (rate_bits - rates[-1])))


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
    if width == 0:
        return 0.0
    symbol = (scores / width).round_().int()
    low = symbol.amin(1)
    span = symbol.amax(1) - low + 1
    symbol += (span.cumsum(0) - span - low)[:, None]
    count = torch.bincount(symbol.reshape(-1))
    share = count[count > 0].double() / scores.shape[1]
    return float(-(share * share.log2()).sum())
