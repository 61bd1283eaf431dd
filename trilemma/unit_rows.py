"""Decoder rows that keep unit norm in training."""

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def remove_radial(
    grad: Float[Tensor, "d_sae d_in"], rows: Float[Tensor, "d_sae d_in"]
) -> None:
    """Remove in place what of a gradient lies along the rows."""
    along = (grad * rows).sum(1, keepdim=True)
    grad.addcmul_(along, rows, value=-1)


@torch.no_grad()
def normalize(rows: Float[Tensor, "d_sae d_in"]) -> None:
    """Make rows unit vectors in place; a row of zeros stays one."""
    rows.div_(rows.norm(dim=1, keepdim=True).clamp_min_(1e-12))
