"""What is known of a hook's activations before an SAE is trained on them."""

import math
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Start(NamedTuple):
    """What an SAE needs to know of its activations before training."""

    d_in: int
    """Width of the activations."""
    mean: Float[Tensor, "d_in"]
    """Their mean, in their own units."""
    mean_squared_norm: float
    """The mean of ||x||^2, in their own units."""
    center: Float[Tensor, "d_in"] | None = None
    """Where b_dec starts, in their own units; None: at their mean."""
    widths: tuple[int, ...] = ()
    """Of a joint hook, the widths of its hooks side by side; empty for one hook."""

    @property
    def scaled_center(self) -> Float[Tensor, "d_in"]:
        """Return where b_dec starts, scaled."""
        center = self.mean if self.center is None else self.center
        return (center.double().cpu() * self.scale).float()

    @property
    def scale(self) -> float:
        """Return what activations are multiplied by, so that E||x||^2 = d_in."""
        return math.sqrt(self.d_in / self.mean_squared_norm)

    @property
    def scaled_variance(self) -> float:
        """Return E||x - E x||^2 of scaled activations, summed over dimensions."""
        mean_square = float(self.mean.double().square().sum())
        return self.d_in * (1 - mean_square / self.mean_squared_norm)
