"""Rows with structure to find: nonnegative sparse sums of more features than axes."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

NOISE_FRACTION = 0.05


def write(
    path: Path, *, d_in: int, num_features: int, active: int, sizes: dict[str, int]
) -> None:
    """Write parts of so many rows into one file, always the same for the same sizes.

    A row adds up `active` features, drawn by Zipf's law and exponential in size, and
    white noise, a fixed share of the mean square. On average its squared norm is d_in.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(num_features, d_in, generator=generator)
    features = functional.normalize(drawn, dim=1)
    frequencies = 1 / torch.arange(1.0, num_features + 1)
    parts = {
        name: _rows(features, frequencies, active, size, generator)
        for name, size in sizes.items()
    }
    save_file(parts, path)


def _rows(
    features: Tensor,
    frequencies: Tensor,
    active: int,
    size: int,
    generator: torch.Generator,
) -> Tensor:
    drawn = torch.multinomial(
        frequencies, size * active, replacement=True, generator=generator
    ).view(size, active)
    magnitudes = torch.empty(size, active).exponential_(generator=generator)
    x = functional.embedding_bag(
        drawn, features, mode="sum", per_sample_weights=magnitudes
    )
    noise = torch.randn(x.shape, generator=generator)
    x = x * ((1 - NOISE_FRACTION) / x.square().mean()).sqrt()
    return x + NOISE_FRACTION**0.5 * noise
