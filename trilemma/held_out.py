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
def measure(sae: SAE, x: Float[Tensor, "rows d_in"]) -> HeldOut:
    """Return what an SAE reaches on rows in their own units; sums are in float64.

    fvu and l0 are those of evaluation, on these rows; fvu is None where they do not
    vary.
    """
    mean = x.mean(0, dtype=torch.float64)
    error = torch.zeros((), dtype=torch.float64, device=x.device)
    deviation, num_on = error.clone(), error.clone()
    fired = torch.zeros(sae.d_sae, dtype=torch.bool, device=x.device)
    for block in torch.split(x, _BLOCK_ROWS):
        acts = sae.encode(block)
        found = distortion.row_errors(block, sae.decode(acts), mean=mean)
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
