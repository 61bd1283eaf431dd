"""What a pass over held-out rows needs of an SAE, and the control that is cut to k."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from trilemma import activation_functions


@runtime_checkable
class Coder(Protocol):
    """A code for activations that is decoded linearly, up to a constant."""

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_in"]:  # noqa: N802 (the field's name)
        """Return what each latent adds to the reconstruction, one row a latent."""

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        """Return the activations of the latents."""

    def decode(self, acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_in"]:
        """Return the reconstruction."""


@runtime_checkable
class Autoencoder(Coder, Protocol):
    """A coder whose encoder is one affine map before its activation function."""

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:  # noqa: N802
        """Return the encoder's weights."""

    @property
    def b_enc(self) -> Float[Tensor, " d_sae"] | None:
        """Return the encoder's bias; None for a gated SAE, which has others."""

    @property
    def b_dec(self) -> Float[Tensor, " d_in"]:
        """Return the decoder's bias, which the encoder subtracts."""


@dataclass(frozen=True)
class Strongest:
    """An SAE whose own activation function is replaced by the k largest latents."""

    sae: Autoencoder
    k: int
    """Latents that each row keeps; fewer where fewer are positive."""

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_in"]:  # noqa: N802 (the field's name)
        """Return the decoder of the SAE."""
        return self.sae.W_dec

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        """Return the k largest latents; the others are zero."""
        sae = self.sae
        assert sae.b_enc is not None
        pre_acts = torch.addmm(sae.b_enc, x - sae.b_dec, sae.W_enc)
        return activation_functions.topk(pre_acts, self.k)

    def decode(self, acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_in"]:
        """Return the reconstruction of the SAE."""
        return self.sae.decode(acts)
