"""An SAE whose activations pass through bins of one width, to splice into the LM."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trilemma.metrics import coders, rate
from trilemma.metrics.coders import Coder


@dataclass(frozen=True)
class Quantised:
    """A coder whose positive activations are the middles of their bins."""

    coder: Coder
    width: float

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_in"]:  # noqa: N802 (the field's name)
        """Return the decoder of the coder."""
        return self.coder.W_dec

    @property
    def W_skip(self) -> Float[Tensor, "d_in d_out"] | None:  # noqa: N802
        """Return the skip of the coder, if it has one."""
        return coders.skip_of(self.coder)

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        """Return the quantised activations; zero stays zero."""
        acts = self.coder.encode(x)
        middle = rate.midpoints(rate.levels(acts.double(), self.width), self.width)
        return torch.where(acts > 0, middle.to(acts.dtype), acts)

    def decode(self, acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_in"]:
        """Return the reconstruction of the coder."""
        return self.coder.decode(acts)
