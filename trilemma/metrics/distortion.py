"""Distortion: what a reconstruction loses, row by row, in float64."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

METRIC_VERSION = 1
_CPU_ROWS = 128
"""Rows taken at once on a processor, so that their float64 stays in its cache."""


class RowErrors(NamedTuple):
    """What each row adds to the sums that the distortion metrics divide."""

    squared_error: Float64[Tensor, " batch"]
    """`|x - x_hat|^2`; its mean is `mse`."""
    squared_deviation: Float64[Tensor, " batch"]
    """`|x - mean|^2`; pooled, the denominator of `fvu`."""
    squared_norm: Float64[Tensor, " batch"]
    """`|x|^2`."""
    squared_norm_hat: Float64[Tensor, " batch"]
    """`|x_hat|^2`."""
    inner: Float64[Tensor, " batch"]
    """Inner product of x and x_hat."""

    @property
    def cosine(self) -> Float64[Tensor, " batch"]:
        """Return the cosine of x and x_hat, 0 where either is zero."""
        norms = self.squared_norm.sqrt() * self.squared_norm_hat.sqrt()
        return self.inner / norms.where(norms > 0, 1.0)


def row_errors(
    x: Float[Tensor, "batch d_in"],
    x_hat: Float[Tensor, "batch d_in"],
    *,
    mean: Float64[Tensor, " d_in"],
) -> RowErrors:
    """Return what each row adds to the distortion metrics.

    `fvu` is `sum |x - x_hat|^2 / sum |x - mean|^2` with the mean of the measured rows,
    so a bias of the reconstruction counts, and the mean as prediction scores 1.
    """
    found = []
    for part in parts(x):
        exact, exact_hat = x[part].double(), x_hat[part].double()
        error, deviation = exact - exact_hat, exact - mean
        pairs = (
            (error, error),
            (deviation, deviation),
            (exact, exact),
            (exact_hat, exact_hat),
            (exact, exact_hat),
        )
        found.append([torch.linalg.vecdot(left, right) for left, right in pairs])
    return RowErrors(*map(torch.cat, zip(*found, strict=True)))


def parts(x: Float[Tensor, "batch d_in"]) -> list[slice]:
    """Return slices of the rows that are to be made float64 one after another."""
    size = _CPU_ROWS if x.device.type == "cpu" else max(1, len(x))
    return [slice(start, start + size) for start in range(0, max(1, len(x)), size)]
