"""What a pass over held-out rows needs of an SAE, and how it codes them."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from trilemma import activation_functions, entries
from trilemma.entries import Entries

# Above this share of nonzero entries a product of whole matrices takes less time.
_SPARSE_SHARE = 1 / 16
# Of the dense pre-activations of one block: 64 MiB, and few enough to stay in caches.
_BLOCK_ENTRIES = 1 << 24


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
class TopKCoder(Coder, Protocol):
    """A coder that may keep the k largest pre-activations, so that others are idle."""

    @property
    def k(self) -> int | None:
        """Return how many latents each row keeps; None for another code."""

    def pre_acts(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        """Return the latents before the activation function."""


@runtime_checkable
class Transcoder(Coder, Protocol):
    """A coder that may reconstruct other activations than it reads."""

    @property
    def is_transcoder(self) -> bool:
        """Return whether it does: its encoder and decoder have no space in common."""


@runtime_checkable
class SkipCoder(Coder, Protocol):
    """A coder that may add to what it decodes what is linear in what it reads."""

    @property
    def W_skip(self) -> Float[Tensor, "d_in d_out"] | None:  # noqa: N802
        """Return what it multiplies its input with; None if it adds nothing."""


class Coded(NamedTuple):
    """The code of some rows."""

    x_hat: Float[Tensor, "row d_out"]
    entries: Entries


def code(coder: Coder, x: Float[Tensor, "row d_in"]) -> Coded:
    """Return the code of some rows, and the reconstruction, a skip's part included.

    Equal to `encode` and `decode` to rounding, without the products with zeros.
    """
    found, W_skip = _code(coder, x), skip_of(coder)
    if W_skip is None:
        return found
    return found._replace(x_hat=found.x_hat + x @ W_skip)


def skip_of(coder: Coder) -> Float[Tensor, "d_in d_out"] | None:
    """Return what a coder adds to what it decodes, per input; None for nothing."""
    return coder.W_skip if isinstance(coder, SkipCoder) else None


def block_rows(d_sae: int) -> int:
    """Return how many rows to code at once: wider codes take no more memory."""
    return max(1, _BLOCK_ENTRIES // d_sae)


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

    def pre_acts(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        """Return the latents of the SAE before its own activation function."""
        sae = self.sae
        assert sae.b_enc is not None
        return torch.addmm(sae.b_enc, x - sae.b_dec, sae.W_enc)

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        """Return the k largest latents; the others are zero."""
        return activation_functions.topk(self.pre_acts(x), self.k)

    def decode(self, acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_in"]:
        """Return the reconstruction of the SAE."""
        return self.sae.decode(acts)


def _code(coder: Coder, x: Tensor) -> Coded:
    d_sae = len(coder.W_dec)
    if isinstance(coder, TopKCoder) and coder.k is not None:
        found = entries.of_topk(coder.pre_acts(x), coder.k)
    else:
        acts = coder.encode(x)
        found = entries.of(acts)
        if len(found.row) > _SPARSE_SHARE * acts.numel():
            return Coded(coder.decode(acts), found)
    silent = coder.decode(coder.W_dec.new_zeros(1, d_sae))
    return Coded(entries.decode(found, coder.W_dec, num_rows=len(x)) + silent, found)
