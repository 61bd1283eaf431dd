"""The directions of a toy: its features, and the constant that every row has."""

import functools
import hashlib

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from trilemma.config.toys import Toy

_REPULSION_STEPS = 50
_REPULSION_RATE = 0.1


@functools.lru_cache(maxsize=4)
def features(config: Toy) -> Float[Tensor, "num_features d_in"]:
    """Return the features, unit vectors: orthogonal if there is room for it.

    If there is not, random directions that have been pushed apart. Each call with
    the same settings returns the same tensor, which is not to be written to.
    """
    drawn = generator(config.seed, "features")
    shape = (config.num_features, config.d_in)
    start = torch.randn(shape, generator=drawn, dtype=torch.float64)
    if config.num_features <= config.d_in:
        orthogonal: Tensor = torch.linalg.qr(start.t()).Q
        return orthogonal.t().float().contiguous()
    directions = functional.normalize(start, dim=1)
    for _ in range(_REPULSION_STEPS):
        # Downhill on the sum of squared cosines between different features.
        cosines = directions @ directions.t()
        cosines.fill_diagonal_(0)
        directions = functional.normalize(
            directions - _REPULSION_RATE * cosines @ directions, dim=1
        )
    return directions.float()


@functools.lru_cache(maxsize=4)
def bias(config: Toy) -> Float[Tensor, " d_in"]:
    """Return what every row has besides its features, in a random direction."""
    drawn = generator(config.seed, "bias")
    direction = torch.randn(config.d_in, generator=drawn, dtype=torch.float64)
    return (config.bias * functional.normalize(direction, dim=0)).float()


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return the generator of one part of a toy, which depends on nothing else."""
    text = "/".join(["toy", str(seed), *map(str, purpose)])
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
