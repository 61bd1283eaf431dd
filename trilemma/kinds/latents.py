"""The latents of a batch that can matter: a few pairs of row and latent, or all.

Both forms give the same numbers to rounding. Which one is used follows from how many
pairs there are, so equal runs take equal ways.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trilemma import codes
from trilemma.codes import Support
from trilemma.kinds.kind import Batch, Weights

# Above this share of all pairs, products of whole matrices take less time.
_SPARSE_SHARE = 1 / 64
# One holds the bias; 32 keep every row at a multiple of 64 bytes.
_COLUMNS_ADDED = 32


class Latents(NamedTuple):
    """Pre-activations with gradients, of some pairs or of all."""

    values: Tensor
    """`[num]` of the pairs, or `[batch, d_sae]`."""
    pairs: Support | None
    """None: all."""

    def spread(self, per_latent: Float[Tensor, "d_sae"]) -> Tensor:
        """Return what each value's latent has, in a shape that fits the values."""
        if self.pairs is None:
            return per_latent
        return per_latent.index_select(0, self.pairs.columns)

    def decode(self, acts: Tensor, weights: Weights) -> Float[Tensor, "batch d_out"]:
        """Return what activations of these latents decode to, float32."""
        W_dec, b_dec = weights["W_dec"], weights["b_dec"]
        if self.pairs is None:
            return torch.addmm(b_dec, acts, W_dec).float()
        return codes.decode(acts, W_dec, support=self.pairs) + b_dec


@torch.no_grad()
def pre_acts(batch: Batch, weights: Weights) -> Float[Tensor, "batch d_sae"]:
    """Return (x - center) W_enc + b_enc, in the precision of matrix products.

    Without a gradient, which `at` and `all_of` give back to those that matter.
    """
    centred = batch.x - batch.center_of(weights)
    W_enc, b_enc = weights["W_enc"], weights["b_enc"]
    if centred.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return _reduced_pre_acts(centred, W_enc, b_enc, torch.get_autocast_dtype("cpu"))
    return torch.addmm(b_enc, centred, W_enc)


def at(
    pairs: Support,
    batch: Batch,
    weights: Weights,
    known: Float[Tensor, "batch d_sae"],
) -> Latents:
    """Return some pairs, with their known pre-activations."""
    encoder = (weights["W_enc"], weights["b_enc"], batch.center_of(weights))
    values = codes.selected_pre_acts(batch.x, *encoder, pre_acts=known, support=pairs)
    return Latents(values, pairs)


def all_of(
    batch: Batch,
    weights: Weights,
    known: Float[Tensor, "batch d_sae"],
) -> Latents:
    """Return all pairs, with their known pre-activations."""
    encoder = (weights["W_enc"], weights["b_enc"], batch.center_of(weights))
    return Latents(codes.all_pre_acts(batch.x, *encoder, pre_acts=known), None)


def above(
    floor: Float[Tensor, "#d_sae"],
    batch: Batch,
    weights: Weights,
    known: Float[Tensor, "batch d_sae"],
) -> Latents:
    """Return the pairs whose pre-activation exceeds the floor, or all if many do."""
    return where(known > floor, batch, weights, known)


def where(
    is_in: Bool[Tensor, "batch d_sae"],
    batch: Batch,
    weights: Weights,
    known: Float[Tensor, "batch d_sae"],
) -> Latents:
    """Return the pairs that a mask holds, or all if it holds many."""
    if int(is_in.sum()) > _SPARSE_SHARE * is_in.numel():
        return all_of(batch, weights, known)
    return at(codes.where(is_in), batch, weights, known)


def _reduced_pre_acts(
    centred: Tensor, W_enc: Tensor, b_enc: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return what addmm does in a narrow dtype, the bias as a weight of a constant 1.

    addmm first fills its result with the bias, then reads it again: on a CPU, half the
    time of the product.
    """
    batch, d_in = centred.shape
    width = d_in + _COLUMNS_ADDED
    left = centred.new_zeros(batch, width, dtype=dtype)
    left[:, :d_in] = centred
    left[:, d_in] = 1
    right = W_enc.new_zeros(W_enc.shape[1], width, dtype=dtype)
    right[:, :d_in] = W_enc.t()
    right[:, d_in] = b_enc
    return left @ right.t()
