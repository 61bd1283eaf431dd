"""The geometric median: the point with the least sum of distances to given rows."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

MAX_ITERATIONS = 100
TOLERANCE = 1e-6
"""Of the mean distance; the point is found when a step is shorter."""


class Found(NamedTuple):
    """A geometric median, and how it was found."""

    point: Float64[Tensor, "d_in"]
    iterations: int
    """`MAX_ITERATIONS` if the last step was still longer than the tolerance."""


def geometric_median(x: Float[Tensor, "rows d_in"]) -> Found:
    """Return the geometric median of rows, in float64.

    Weiszfeld (1937): from the mean on, a mean weighted by inverse distances.
    """
    rows = x.double()
    point = rows.mean(0)
    for iteration in range(1, MAX_ITERATIONS + 1):
        distance = torch.linalg.vector_norm(rows - point, dim=1)
        # A row at the point itself would weigh infinitely much.
        weight = 1 / distance.clamp_min(torch.finfo(torch.float64).eps)
        following = weight @ rows / weight.sum()
        moved = torch.linalg.vector_norm(following - point)
        point = following
        if moved <= TOLERANCE * distance.mean():
            return Found(point, iteration)
    return Found(point, MAX_ITERATIONS)
