"""The kinds of SAEs in training, a module each; `make` returns the one of a config."""

from collections.abc import Callable
from typing import Any

from trilemma.config.saes import (
    BatchTopK,
    Gated,
    Group,
    JumpReLU,
    Matryoshka,
    ReLU,
    SAEConfig,
    TopK,
    Tree,
)
from trilemma.kinds import batchtopk, gated, group, jumprelu, relu, topk, tree
from trilemma.kinds.kind import Kind

# `Any`: each takes the config of its own kind.
_MAKERS: dict[type[Any], Callable[[Any], Kind]] = {
    ReLU: relu.make,
    Gated: gated.make,
    Group: group.make,
    Tree: tree.make,
    JumpReLU: jumprelu.make,
    TopK: topk.make,
    BatchTopK: batchtopk.make,
    Matryoshka: batchtopk.make,
}


def make(config: SAEConfig) -> Kind:
    """Return the kind that a config names."""
    return _MAKERS[type(config)](config)
