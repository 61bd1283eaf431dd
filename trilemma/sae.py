"""A sparse autoencoder at inference: encode, decode, load and save."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from trilemma import activation_functions, matching_pursuit
from trilemma.formats import folders, folding
from trilemma.formats.folders import Format
from trilemma.formats.saelens import Activation, SAEFile
from trilemma.matching_pursuit import Pursuit


class SAE(nn.Module):
    """A sparse autoencoder whose activation function is what varies.

    Encodes x as activation((x - b_dec) W_enc + b_enc) and decodes acts as
    acts W_dec + b_dec. Weights are in the units of the activations it reads. A gated
    SAE has two biases of its own in place of b_enc; see `activation_functions.gated`.
    Matching pursuit has none: its encoder is the decoder's transpose, and `pursuit`
    says when it ends.

    A transcoder reconstructs other activations than it reads, of a width of their own.
    It encodes x as activation(x W_enc + b_enc), and its reconstruction has x W_skip
    besides where it skips.

    A crosscoder reads and reconstructs several hooks side by side, `widths` of which
    make a row: W_enc, W_dec and b_dec are those of the hooks end to end.
    """

    def __init__(
        self,
        activation: Activation,
        *,
        W_enc: Float[Tensor, "d_in d_sae"],
        W_dec: Float[Tensor, "d_sae d_out"],
        b_dec: Float[Tensor, "d_out"],
        b_enc: Float[Tensor, "d_sae"] | None = None,
        threshold: Float[Tensor, "d_sae"] | None = None,
        b_gate: Float[Tensor, "d_sae"] | None = None,
        b_mag: Float[Tensor, "d_sae"] | None = None,
        r_mag: Float[Tensor, "d_sae"] | None = None,
        parents: Int64[Tensor, "d_sae"] | None = None,
        W_skip: Float[Tensor, "d_in d_out"] | None = None,
        k: int | None = None,
        pursuit: Pursuit | None = None,
        is_transcoder: bool = False,
        widths: tuple[int, ...] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        assert (b_enc is None) == (activation in ("gated", "matching_pursuit"))
        assert (threshold is not None) == (activation == "jumprelu")
        for gate in (b_gate, b_mag, r_mag):
            assert (gate is not None) == (activation == "gated")
        assert (parents is not None) == (activation == "tree")
        assert (k is not None) == (activation == "topk")
        assert (pursuit is not None) == (activation == "matching_pursuit")
        assert not widths or (sum(widths) == len(b_dec) and not is_transcoder)
        assert is_transcoder or (W_skip is None and len(b_dec) == len(W_enc))
        self.activation = activation
        self.W_enc = nn.Parameter(W_enc)
        self.W_dec = nn.Parameter(W_dec)
        self.b_dec = nn.Parameter(b_dec)
        self.b_enc = _parameter(b_enc)
        self.threshold = _parameter(threshold)
        self.b_gate = _parameter(b_gate)
        self.b_mag = _parameter(b_mag)
        self.r_mag = _parameter(r_mag)
        self.W_skip = _parameter(W_skip)
        self.parents: Tensor | None
        self.register_buffer("parents", parents)
        self.k = k
        self.pursuit = pursuit
        self.is_transcoder = is_transcoder
        self.widths = tuple(widths)
        """Of a crosscoder, the widths of its hooks; empty for any other SAE."""
        self.metadata: dict[str, Any] = dict(metadata or {})
        """JSON values (hence `Any`) on where the SAE comes from; saved with it."""

    @property
    def d_in(self) -> int:
        """Return the width of the activations it reads."""
        return self.W_enc.shape[0]

    @property
    def d_out(self) -> int:
        """Return the width of the activations it reconstructs."""
        return self.W_dec.shape[1]

    @property
    def d_sae(self) -> int:
        """Return the number of latents."""
        return self.W_enc.shape[1]

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Return the latents of each activation."""
        flat = x.reshape(-1, self.d_in)
        if self.pursuit is None:
            acts = self._acts(self.pre_acts(flat))
        else:
            centred = flat - self.b_dec
            acts = matching_pursuit.encode(centred, self.W_dec, self.pursuit)
        return acts.view(*x.shape[:-1], self.d_sae)

    def pre_acts(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        """Return the latents before the activation function.

        Those of a gated SAE are without its biases, of which each latent has two.
        """
        centred = x if self.is_transcoder else x - self.b_dec
        if self.b_enc is None:
            return centred @ self.W_enc
        return torch.addmm(self.b_enc, centred, self.W_enc)

    def decode(
        self, acts: Float[Tensor, "*batch d_sae"]
    ) -> Float[Tensor, "*batch d_out"]:
        """Return the reconstruction from latents, without what a skip adds."""
        return acts @ self.W_dec + self.b_dec

    def reconstruct(
        self, x: Float[Tensor, "*batch d_in"], acts: Float[Tensor, "*batch d_sae"]
    ) -> Float[Tensor, "*batch d_out"]:
        """Return the reconstruction from latents, and from x where there is a skip."""
        x_hat = self.decode(acts)
        return x_hat if self.W_skip is None else x_hat + x @ self.W_skip

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """Return the reconstruction of each activation."""
        return self.reconstruct(x, self.encode(x))

    def of_scaled(self, factors: Float64[Tensor, "d_in"]) -> "SAE":
        """Return the SAE of x that this one is of x * factors, with the same code."""
        assert not self.is_transcoder
        assert self.pursuit is None
        tensors: dict[str, Any] = folding.unscaled_dimensions(
            self.state_dict(), factors
        )
        return SAE(
            self.activation,
            **tensors,
            k=self.k,
            widths=self.widths,
            metadata=self.metadata,
        )

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> Self:
        """Return the SAE of a folder in any format that `formats.folders` reads."""
        file = folders.read(folder)
        sae = cls(
            file.activation,
            **file.tensors,
            k=file.k,
            pursuit=file.pursuit,
            is_transcoder=file.is_transcoder,
            widths=file.widths,
            metadata=file.metadata,
        )
        return sae.to(device)

    def save(self, folder: str | Path, file_format: Format = "saelens") -> None:
        """Write the SAE into a folder in that format; equal SAEs, equal bytes.

        Raises:
            ValueError: the format has no words for such an SAE.
        """
        tensors: dict[str, Tensor] = self.state_dict()
        file = SAEFile(
            self.activation,
            tensors,
            self.k,
            self.metadata,
            pursuit=self.pursuit,
            is_transcoder=self.is_transcoder,
            widths=self.widths,
        )
        folders.write(file, folder, file_format)

    def __repr__(self) -> str:
        k = "" if self.k is None else f", k={self.k}"
        out = f", d_out={self.d_out}" if self.is_transcoder else ""
        out += f", widths={list(self.widths)}" if self.widths else ""
        return f"SAE({self.activation}, d_in={self.d_in}, d_sae={self.d_sae}{out}{k})"

    def _acts(self, pre_acts: Tensor) -> Tensor:
        if self.b_gate is not None:
            assert self.b_mag is not None
            assert self.r_mag is not None
            return activation_functions.gated(
                pre_acts, b_gate=self.b_gate, b_mag=self.b_mag, r_mag=self.r_mag
            )
        if self.k is not None:
            return activation_functions.topk(pre_acts, self.k)
        if self.threshold is not None:
            return activation_functions.jumprelu(pre_acts, self.threshold)
        if self.parents is not None:
            return activation_functions.tree(pre_acts, self.parents)
        return activation_functions.relu(pre_acts)


def _parameter(tensor: Tensor | None) -> nn.Parameter | None:
    return None if tensor is None else nn.Parameter(tensor)
