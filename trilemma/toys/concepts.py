"""Which features of a toy are active together: alone, in blocks, trees, or a copula."""

import functools
import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from trilemma.config.toys import PAIR, Copula, FeatureTree, Toy
from trilemma.toys import directions


def draw(
    config: Toy, generator: torch.Generator, num_rows: int
) -> Bool[Tensor, "row num_features"]:
    """Return the active features of rows drawn by a generator."""
    marginals = _marginals(config)
    if config.copula is not None:
        return _by_copula(config.copula, config.seed, marginals, generator, num_rows)
    uniform = torch.rand((num_rows, config.num_features), generator=generator)
    if config.tree is not None:
        return _in_trees(config.tree, marginals, uniform)
    active = uniform < marginals
    if config.co_occurrence is None:
        return active
    size = config.block_size
    tied = config.num_features // size * size
    if size == PAIR:
        active[:, :tied] = _in_pairs(config, uniform[:, :tied])
    else:
        of_block = torch.rand((num_rows, 2, tied // size), generator=generator)
        active[:, :tied] = _in_blocks(
            config.co_occurrence,
            marginals[:tied].view(-1, size),
            uniform[:, :tied].view(num_rows, -1, size),
            of_block,
        )
    return active


def related(config: Toy) -> Int64[Tensor, "pair 2"]:
    """Return the pairs that are tied: parent and child, or both orders in a block.

    A copula ties all features somewhat, so none in particular.
    """
    if config.tree is not None:
        size = config.tree.size
        child = torch.arange(config.num_features)
        child = child[child % size > 0]
        return torch.stack([_parents(config.tree, child), child], dim=1)
    if config.co_occurrence is None:
        return torch.zeros(0, 2, dtype=torch.int64)
    size = config.block_size
    feature = torch.arange(config.num_features // size * size)
    start = feature - feature % size
    others = [start + (feature + step) % size for step in range(1, size)]
    return torch.stack([feature.repeat(size - 1), torch.cat(others)], dim=1)


@functools.lru_cache(maxsize=4)
def _marginals(config: Toy) -> Float[Tensor, " num_features"]:
    return torch.tensor(config.marginals)


def _in_pairs(
    config: Toy, uniform: Float[Tensor, "row tied"]
) -> Bool[Tensor, "row tied"]:
    """Return pairs whose second feature depends on the first, at any co-occurrence."""
    together = config.co_occurrence
    assert together is not None
    marginals = _marginals(config)[: uniform.shape[1]]
    first, second = marginals[0::2], marginals[1::2]
    rarer = torch.minimum(first, second)
    # Without the first, the probability that leaves the second's marginal as it was.
    alone = second * (1 - together * (rarer / second)) / (1 - first)
    active = uniform < first.repeat_interleave(2)
    active[:, 1::2] = torch.where(
        active[:, 0::2],
        uniform[:, 1::2] < together * (rarer / first),
        uniform[:, 1::2] < alone,
    )
    return active


def _in_blocks(
    together: float,
    marginals: Float[Tensor, "block size"],
    uniform: Float[Tensor, "row block size"],
    of_block: Float[Tensor, "row 2 block"],
) -> Bool[Tensor, "row tied"]:
    """Return blocks whose features are independent given what the block does.

    Above independence a block is on or off as a whole, and while it is on its features
    are active independently. Below, it is independent in a share of the rows, and in
    the others at most one of its features is active.
    """
    largest = marginals.amax(1)
    share = (largest / together if together > 0 else torch.inf * largest).clamp(max=1)
    is_on = of_block[:, 0] < share
    active = is_on[..., None] & (uniform < marginals / share[:, None])
    ends = marginals.cumsum(1)
    place = of_block[:, 1, :, None]
    exclusive = (place < ends) & (place >= ends - marginals)
    is_independent = of_block[:, 0] < (together / largest)
    apart = torch.where(is_independent[..., None], uniform < marginals, exclusive)
    is_apart = (together < largest)[:, None]
    return torch.where(is_apart, apart, active).flatten(1)


def _in_trees(
    tree: FeatureTree,
    marginals: Float[Tensor, " num_features"],
    uniform: Float[Tensor, "row num_features"],
) -> Bool[Tensor, "row num_features"]:
    probability = torch.full_like(marginals, tree.child_probability)
    probability[:: tree.size] = marginals[:: tree.size]
    active = uniform < probability
    every = torch.arange(len(marginals))
    child = every[every % tree.size > 0]
    if tree.exclusive:
        # Siblings share one draw, and each has an interval of it to itself.
        order = (child % tree.size - 1) % tree.branching
        place = uniform[:, child - order]
        start = order * tree.child_probability
        active[:, child] = (place >= start) & (place < start + tree.child_probability)
    parent = _parents(tree, child)
    for _ in range(tree.depth - 1):
        active[:, child] &= active[:, parent]
    return active


def _parents(
    tree: FeatureTree, child: Int64[Tensor, " child"]
) -> Int64[Tensor, " child"]:
    """Return the parents of features that are no roots, within the same tree."""
    inside = child % tree.size
    return child - inside + (inside - 1) // tree.branching


def _by_copula(
    copula: Copula,
    seed: int,
    marginals: Float[Tensor, " num_features"],
    generator: torch.Generator,
    num_rows: int,
) -> Bool[Tensor, "row num_features"]:
    common = torch.randn((num_rows, copula.rank), generator=generator)
    own = torch.randn((num_rows, len(marginals)), generator=generator)
    shared = common @ loadings(copula, seed, len(marginals)).t()
    normal = shared + math.sqrt(1 - copula.strength) * own
    active: Tensor = normal < torch.special.ndtri(marginals)
    return active


@functools.lru_cache(maxsize=4)
def loadings(
    copula: Copula, seed: int, num_features: int
) -> Float[Tensor, "num_features rank"]:
    """Return how each feature's normal depends on the common ones.

    The correlation of two features' normals is the inner product of their rows.
    """
    drawn = directions.generator(seed, "copula")
    random = torch.randn((num_features, copula.rank), generator=drawn)
    return math.sqrt(copula.strength) * functional.normalize(random, dim=1)
