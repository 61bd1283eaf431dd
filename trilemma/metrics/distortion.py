"""Distortion: what a reconstruction loses, row by row, in float64."""

from typing import NamedTuple

from jaxtyping import Float, Float64
from torch import Tensor

METRIC_VERSION = 1


class RowErrors(NamedTuple):
    """What each row adds to the sums that the distortion metrics divide."""

    squared_error: Float64[Tensor, " batch"]
    """`|x - x_hat|^2`; its mean is `mse`."""
    squared_deviation: Float64[Tensor, " batch"]
    """`|x - mean|^2`; pooled, the denominator of `fvu`."""
    cosine: Float64[Tensor, " batch"]
    """Cosine of x and x_hat, 0 where either is zero; its mean is `cos`."""


def row_errors(
    x: Float[Tensor, "batch d_in"],
    x_hat: Float[Tensor, "batch d_in"],
    *,
    mean: Float64[Tensor, " d_in"],
) -> RowErrors:
    """Return what each row adds to `mse`, `fvu` and `cos`.

    `fvu` is `sum |x - x_hat|^2 / sum |x - mean|^2` with the mean of the measured rows,
    so a bias of the reconstruction counts, and the mean as prediction scores 1.
    """
    exact, exact_hat = x.double(), x_hat.double()
    norms = exact.square().sum(-1).sqrt() * exact_hat.square().sum(-1).sqrt()
    inner = (exact * exact_hat).sum(-1)
    return RowErrors(
        squared_error=(exact - exact_hat).square().sum(-1),
        squared_deviation=(exact - mean).square().sum(-1),
        cosine=inner / norms.where(norms > 0, 1.0),
    )
