"""Codes whose entropies are known, and what a pass keeps of a coder's rows."""

import numpy as np
import torch
from torch import Tensor

from trilemma.metrics import rate


def codes_of(acts: Tensor) -> rate.Codes:
    """Return the codes of rows that all belong to one document."""
    row, latent = acts.nonzero(as_tuple=True)
    return rate.Codes(
        document=np.zeros(len(acts), dtype=np.int64),
        row=row.numpy(),
        latent=latent.numpy(),
        value=acts[row, latent].numpy(),
        d_sae=acts.shape[1],
    )


def sparse_acts(num_rows: int, d_sae: int, density: float) -> Tensor:
    """Return activations between 0.5 and 1.5 that fire at random."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(num_rows, d_sae, generator=generator) + 0.5
    return values * (torch.rand(num_rows, d_sae, generator=generator) < density)


def probes_of(acts: Tensor, W_dec: Tensor, *, noise: float) -> rate.Probes:
    """Return every row as a probe, whose reconstruction misses it by noise."""
    generator = torch.Generator().manual_seed(1)
    error = noise * torch.randn(len(acts), W_dec.shape[1], generator=generator)
    x = acts @ W_dec + error
    return rate.Probes(
        row=np.arange(len(acts)),
        error=error,
        squared_deviation=float((x - x.mean(0)).double().square().sum()),
    )


def unit_rows(d_sae: int, d_in: int) -> Tensor:
    """Return random directions."""
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(d_sae, d_in, generator=generator)
    return torch.nn.functional.normalize(rows)


def binary_entropy(p: Tensor) -> Tensor:
    """Return the entropy of a coin in bits."""
    return -(p * p.log2() + (1 - p) * (1 - p).log2())
