"""A sparse autoencoder at inference: encode, decode, load and save."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from trilemma import activation_functions
from trilemma.formats import saelens
from trilemma.formats.saelens import Activation


class SAE(nn.Module):
    """A sparse autoencoder whose activation function is what varies.

    Encodes x as activation((x - b_dec) W_enc + b_enc) and decodes acts as
    acts W_dec + b_dec. Weights are in the units of the activations it reads. Of a gated
    SAE `b_enc` is the bias of the gates.
    """

    def __init__(
        self,
        activation: Activation,
        *,
        W_enc: Float[Tensor, "d_in d_sae"],
        b_enc: Float[Tensor, "d_sae"],
        W_dec: Float[Tensor, "d_sae d_in"],
        b_dec: Float[Tensor, "d_in"],
        threshold: Float[Tensor, "d_sae"] | None = None,
        r_mag: Float[Tensor, "d_sae"] | None = None,
        b_mag: Float[Tensor, "d_sae"] | None = None,
        parents: Int64[Tensor, "d_sae"] | None = None,
        k: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        assert (threshold is not None) == (activation == "jumprelu")
        assert (k is not None) == (activation == "topk")
        assert (r_mag is not None) == (b_mag is not None) == (activation == "gated")
        assert (parents is not None) == (activation == "tree")
        self.activation = activation
        self.W_enc = nn.Parameter(W_enc)
        self.b_enc = nn.Parameter(b_enc)
        self.W_dec = nn.Parameter(W_dec)
        self.b_dec = nn.Parameter(b_dec)
        self.threshold = None if threshold is None else nn.Parameter(threshold)
        self.r_mag = None if r_mag is None else nn.Parameter(r_mag)
        self.b_mag = None if b_mag is None else nn.Parameter(b_mag)
        self.parents: Tensor | None
        self.register_buffer("parents", parents)
        self.k = k
        self.metadata: dict[str, Any] = dict(metadata or {})
        """JSON values (hence `Any`) on where the SAE comes from; saved with it."""

    @property
    def d_in(self) -> int:
        """Return the width of the activations it reads."""
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Return the number of latents."""
        return self.W_enc.shape[1]

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Return the latents of each activation."""
        flat = x.reshape(-1, self.d_in)
        pre_acts = torch.addmm(self.b_enc, flat - self.b_dec, self.W_enc)
        return self._activate(pre_acts).view(*x.shape[:-1], self.d_sae)

    def decode(
        self, acts: Float[Tensor, "*batch d_sae"]
    ) -> Float[Tensor, "*batch d_in"]:
        """Return the reconstruction from latents."""
        return acts @ self.W_dec + self.b_dec

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """Return the reconstruction of each activation."""
        return self.decode(self.encode(x))

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> Self:
        """Return the SAE of a folder in SAELens's format."""
        file = saelens.read(folder)
        sae = cls(file.activation, **file.tensors, k=file.k, metadata=file.metadata)
        return sae.to(device)

    def save(self, folder: str | Path) -> None:
        """Write the SAE into a folder in SAELens's format; equal SAEs, equal bytes."""
        tensors: dict[str, Tensor] = self.state_dict()
        saelens.write(
            saelens.SAEFile(self.activation, tensors, self.k, self.metadata), folder
        )

    def __repr__(self) -> str:
        k = "" if self.k is None else f", k={self.k}"
        return f"SAE({self.activation}, d_in={self.d_in}, d_sae={self.d_sae}{k})"

    def _activate(self, pre_acts: Tensor) -> Tensor:
        if self.k is not None:
            return activation_functions.topk(pre_acts, self.k)
        if self.threshold is not None:
            return activation_functions.jumprelu(pre_acts, self.threshold)
        if self.r_mag is not None and self.b_mag is not None:
            pi = pre_acts - self.b_enc
            return activation_functions.gated(pre_acts, pi, self.r_mag, self.b_mag)
        if self.parents is not None:
            return activation_functions.tree(pre_acts, self.parents)
        return activation_functions.relu(pre_acts)
