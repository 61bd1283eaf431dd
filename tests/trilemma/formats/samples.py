"""Small SAEs that tests of formats write and read."""

import torch

from trilemma.formats.saelens import Activation
from trilemma.sae import SAE


def drawn(*shape: int, seed: int) -> torch.Tensor:
    """Return normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def an_sae(activation: Activation) -> SAE:
    """Return an SAE of random weights."""
    is_gated = activation == "gated"
    return SAE(
        activation,
        W_enc=drawn(6, 16, seed=0),
        W_dec=drawn(16, 6, seed=1),
        b_dec=drawn(6, seed=2),
        b_enc=None if is_gated else drawn(16, seed=3),
        threshold=drawn(16, seed=4).abs() if activation == "jumprelu" else None,
        b_gate=drawn(16, seed=5) if is_gated else None,
        b_mag=drawn(16, seed=6) if is_gated else None,
        r_mag=drawn(16, seed=7) if is_gated else None,
        k=3 if activation == "topk" else None,
        metadata={"hook_name": "blocks.2.hook_resid_post"},
    )
