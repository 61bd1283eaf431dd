"""What an SAE in training reaches on held-out rows, in the form that is exported."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from trilemma.metrics import distortion
from trilemma.sae import SAE

# Rows encoded at a time: codes are dense, so a wide SAE's take much memory.
_BLOCK_ROWS = 1024


class HeldOut(NamedTuple):
    """What an SAE reaches on rows that it was not trained on."""

    fvu: float | None
    l0: float
    silent_fraction: float
    """Latents that fire on none of the rows: few rows leave more of them silent."""


@torch.inference_mode()
def measure(
    sae: SAE,
    x: Float[Tensor, "rows d_in"],
    y: Float[Tensor, "rows d_out"] | None = None,
) -> HeldOut:
    """Return what an SAE reaches on rows in their own units; sums are in float64.

    A transcoder is to reconstruct the rows y. fvu and l0 are those of evaluation, on
    these rows; fvu is None where they do not vary.
    """
    target = x if y is None else y
    mean = target.mean(0, dtype=torch.float64)
    error = torch.zeros((), dtype=torch.float64, device=x.device)
    deviation, num_on = error.clone(), error.clone()
    fired = torch.zeros(sae.d_sae, dtype=torch.bool, device=x.device)
    for block, wanted in zip(
        torch.split(x, _BLOCK_ROWS), torch.split(target, _BLOCK_ROWS), strict=True
    ):
        acts = sae.encode(block)
        x_hat = sae.reconstruct(block, acts)
        found = distortion.row_errors(wanted, x_hat, mean=mean)
        error += found.squared_error.sum()
        deviation += found.squared_deviation.sum()
        is_on = acts != 0
        num_on += is_on.sum()
        fired |= is_on.any(0)
    return HeldOut(
        fvu=float(error / deviation) if deviation > 0 else None,
        l0=float(num_on) / len(x),
        silent_fraction=float((~fired).double().mean()),
    )
