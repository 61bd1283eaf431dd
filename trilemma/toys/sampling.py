"""Rows of a toy: sparse sums of its features, drawn by seed, document by document."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from trilemma.config.toys import Toy
from trilemma.toys import concepts, directions

Split = Literal["train", "eval"]


class ToyRows(NamedTuple):
    """Rows of a toy and the features that made them."""

    x: Float[Tensor, "batch d_in"]
    """Activations."""
    strongest: Int64[Tensor, "batch"]
    """The active feature of largest magnitude, plus one; 0 where none is active."""
    active: Bool[Tensor, "batch num_features"]
    """Which features are present."""


def sample(config: Toy, *, split: Split, start: int, num: int) -> ToyRows:
    """Return rows `start` to `start + num` of a split; however cut, the same rows.

    A row is the toy's bias, its active features by their magnitudes, and noise.
    """
    blocks = [
        _block(config, split, index) for index in _documents(config.ctx, start, num)
    ]
    return ToyRows(
        *(_cut(parts, config.ctx, start, num) for parts in zip(*blocks, strict=True))
    )


def active(
    config: Toy, *, split: Split, start: int, num: int
) -> Bool[Tensor, "batch num_features"]:
    """Return the active features of the rows that `sample` returns, without these."""
    blocks = [
        concepts.draw(config, _generator(config, split, index), config.ctx)
        for index in _documents(config.ctx, start, num)
    ]
    return _cut(blocks, config.ctx, start, num)


def token_text(config: Toy) -> list[str]:
    """Return what stands for each value of `strongest`: `f` and the feature."""
    return ["none", *(f"f{index}" for index in range(config.num_features))]


def _documents(ctx: int, start: int, num: int) -> range:
    return range(start // ctx, -(-(start + num) // ctx))


def _cut(parts: Sequence[Tensor], ctx: int, start: int, num: int) -> Tensor:
    return torch.cat(list(parts))[start % ctx : start % ctx + num]


def _block(config: Toy, split: Split, index: int) -> ToyRows:
    """Return one document: `ctx` rows from a generator of their own."""
    generator = _generator(config, split, index)
    present = concepts.draw(config, generator, config.ctx)
    code = _magnitudes(config, generator) * present
    noise = torch.randn(config.ctx, config.d_in, generator=generator)
    x = code @ directions.features(config) + config.noise * noise
    strongest = torch.where(present.any(dim=1), code.argmax(dim=1) + 1, 0)
    return ToyRows(x + directions.bias(config), strongest, present)


def _magnitudes(
    config: Toy, generator: torch.Generator
) -> Float[Tensor, "ctx num_features"]:
    shape = (config.ctx, config.num_features)
    if config.magnitude == "constant":
        return torch.ones(shape)
    if config.magnitude == "half_normal":
        # The mean of |N(0, 1)| is sqrt(2 / pi).
        normal = torch.randn(shape, generator=generator)
        return normal.abs() * math.sqrt(math.pi / 2)
    return 0.5 + torch.rand(shape, generator=generator)


def _generator(config: Toy, split: Split, index: int) -> torch.Generator:
    return directions.generator(config.seed, "rows", split, index)
