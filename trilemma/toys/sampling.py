"""Toy activations with known features: sparse sums of directions, drawn by seed."""

import functools
import hashlib
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from trilemma.config.sources import Toy

_REPULSION_STEPS = 50
_REPULSION_RATE = 0.1


class ToyRows(NamedTuple):
    """Rows of a toy and the features that made them."""

    x: Float[Tensor, "batch d_in"]
    """Activations."""
    strongest: Int64[Tensor, "batch"]
    """The active feature of largest magnitude, plus one; 0 where none is active."""
    active: Bool[Tensor, "batch num_features"]
    """Which features are present."""


@functools.lru_cache(maxsize=4)
def features(config: Toy) -> Float[Tensor, "num_features d_in"]:
    """Return the features, unit vectors: orthogonal if there is room for it.

    If there is not, random directions that have been pushed apart. Each call with
    the same settings returns the same tensor, which is not to be written to.
    """
    generator = _generator(config.seed, "features")
    shape = (config.num_features, config.d_in)
    start = torch.randn(shape, generator=generator, dtype=torch.float64)
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


def sample(
    config: Toy, *, split: Literal["train", "eval"], start: int, num: int
) -> ToyRows:
    """Return rows `start` to `start + num` of a split; however cut, the same rows.

    Each feature is active with probability `density` and magnitude uniform in
    [0.5, 1.5]. With `co_occurrence` c, features 2i and 2i + 1 form a pair with
    P(one active | other active) = c.
    """
    _check(config)
    directions = features(config)
    first, last = start // config.ctx, -(-(start + num) // config.ctx)
    blocks = [_block(config, directions, split, b) for b in range(first, last)]
    inside = slice(start - first * config.ctx, start - first * config.ctx + num)
    return ToyRows(
        torch.cat([b.x for b in blocks])[inside],
        torch.cat([b.strongest for b in blocks])[inside],
        torch.cat([b.active for b in blocks])[inside],
    )


def token_text(config: Toy) -> list[str]:
    """Return what stands for each value of `strongest`: `f` and the feature."""
    return ["none", *(f"f{index}" for index in range(config.num_features))]


def _check(config: Toy) -> None:
    density, together = config.density, config.co_occurrence
    lowest = max(0.0, (2 * density - 1) / density)
    if 0 < together < lowest:
        raise ValueError(
            f"toy.co_occurrence: found {together}; at density {density} it is at "
            f"least {lowest:.3g}, or 0 for independent features"
        )


def _block(config: Toy, directions: Tensor, split: str, index: int) -> ToyRows:
    """Return one document: `ctx` rows from a generator of their own."""
    generator = _generator(config.seed, "rows", split, index)
    shape = (config.ctx, config.num_features)
    active = _active(config, torch.rand(shape, generator=generator))
    magnitudes = 0.5 + torch.rand(shape, generator=generator)
    code = magnitudes * active
    noise = torch.randn(config.ctx, config.d_in, generator=generator)
    strongest = torch.where(active.any(dim=1), code.argmax(dim=1) + 1, 0)
    return ToyRows(code @ directions + config.noise * noise, strongest, active)


def _active(config: Toy, uniform: Tensor) -> Tensor:
    density, together = config.density, config.co_occurrence
    active = uniform < density
    if together > 0:
        # Given the first of a pair, its partner is on with probability c; without
        # it with the probability that leaves the partner's density as it was.
        alone = density * (1 - together) / (1 - density)
        num_paired = config.num_features // 2 * 2
        is_first = active[:, 0:num_paired:2]
        partner = uniform[:, 1:num_paired:2]
        active[:, 1:num_paired:2] = torch.where(
            is_first, partner < together, partner < alone
        )
    return active


def _generator(seed: int, *purpose: str | int) -> torch.Generator:
    text = "/".join(["toy", str(seed), *map(str, purpose)])
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
