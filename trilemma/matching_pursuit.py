"""Matching pursuit: codes found greedily with the decoder alone, at inference."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Pursuit(NamedTuple):
    """When the pursuit of a row ends."""

    max_steps: int
    """Steps at most, and so latents: one may be taken again."""
    residual_threshold: float
    """Norm of the residual below which it ends, in the units of x; 0: none."""
    stops_at_repeat: bool
    """Whether it ends with a step that takes no new latent."""


@torch.no_grad()
def encode(
    centred: Float[Tensor, "batch d_in"],
    W_dec: Float[Tensor, "d_sae d_in"],
    pursuit: Pursuit,
) -> Float[Tensor, "batch d_sae"]:
    """Return codes of x - b_dec for a decoder with rows of unit norm.

    Each step takes the latent with the largest inner product with what is left, and
    subtracts its part (Mallat and Zhang, 1993, "Matching pursuits with time-frequency
    dictionaries", section III; as SAELens has it, inner products below 0 count as 0).
    """
    residual = centred.clone()
    acts = centred.new_zeros(len(centred), len(W_dec))
    is_open = torch.ones(len(centred), dtype=torch.bool, device=centred.device)
    for _ in range(pursuit.max_steps):
        value, latent = (residual @ W_dec.t()).max(dim=1)
        value = value.clamp_(min=0) * is_open
        before = acts.gather(1, latent[:, None])[:, 0]
        acts.scatter_add_(1, latent[:, None], value[:, None])
        residual = residual.addcmul_(-value[:, None], W_dec[latent])
        if pursuit.stops_at_repeat:
            is_open &= (before == 0) & (value > 0)
        if pursuit.residual_threshold > 0:
            is_open &= residual.norm(dim=1) >= pursuit.residual_threshold
        if not bool(is_open.any()):
            break
    return acts
