"""Rows whose concepts are known, on which measures of polysemanticity are tried."""

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional

from trilemma import toys
from trilemma.config.stages import Evaluation
from trilemma.config.toys import Toy

NUM_PAIRS = 8
NUM_CONCEPTS = 2 * NUM_PAIRS
PAIRS = tuple((2 * index, 2 * index + 1) for index in range(NUM_PAIRS))
"""Concepts that occur together."""
DENSITY = 0.08
EXCLUSIVE_DENSITY = 0.05
"""Density of concepts whose pairs exclude each other: eight pairs then leave room."""
_NUM_ROWS = 6000
_NUM_CLUSTERS = Evaluation().num_clusters
_ROUNDING = 1e-3
"""Magnitude below which a turned concept is not there; others are at least 1/2."""


class Concepts(NamedTuple):
    """The truth about rows."""

    active: Bool[Tensor, "row concept"]
    directions: Float[Tensor, "concept d_in"]


class World(NamedTuple):
    """Rows, and what measures compare the firings of latents with."""

    x: Float[Tensor, "row d_in"]
    """Activations."""
    embedding: Float[Tensor, "row width"]
    """What says how alike two rows are: of concepts, the activations themselves."""
    labels: Int32[np.ndarray, " row"]
    """Cluster of each row."""
    num_labels: int
    concepts: Concepts | None
    """None where nobody knows them."""
    seed: int
    """Seed of the measures' nulls."""


class Code(NamedTuple):
    """What an SAE makes of a world's rows."""

    W_dec: Float[Tensor, "d_sae d_in"]
    acts: Float[Tensor, "row d_sae"]


@functools.cache
def pairs(co_occurrence: float, *, density: float = DENSITY, seed: int = 0) -> World:
    """Return rows of sixteen concepts in eight independent pairs.

    Concepts are orthonormal and have no magnitudes. Each is present with probability
    `density`, and its partner is so too with probability `co_occurrence`. Labels are
    k-means clusters of the rows' directions, as many as evaluation makes of contexts
    or as there are sets of concepts: what is left to a measure told of no concepts.
    """
    toy = Toy(
        num_features=NUM_CONCEPTS,
        d_in=NUM_CONCEPTS,
        density=density,
        co_occurrence=co_occurrence,
        magnitude="constant",
        seed=seed,
    )
    active = toys.active(toy, split="eval", start=0, num=_NUM_ROWS)
    return _world(active, toys.features(toy), seed)


@functools.cache
def exclusive_pairs(co_occurrence: float, *, seed: int = 0) -> World:
    """Return such rows with one pair in a row at most."""
    generator = torch.Generator().manual_seed(seed)
    alone, both = 1 - co_occurrence, co_occurrence
    shares = torch.tensor([alone, alone, both]).repeat(NUM_PAIRS) * EXCLUSIVE_DENSITY
    drawn = torch.multinomial(
        torch.cat([shares, 1 - shares.sum(0, keepdim=True)]),
        _NUM_ROWS,
        replacement=True,
        generator=generator,
    )
    pair, pattern, row = drawn // 3, drawn % 3, torch.arange(_NUM_ROWS)
    # What is drawn beside all pairs falls into one more, which is cut off.
    active = torch.zeros(_NUM_ROWS, NUM_PAIRS + 1, 2, dtype=torch.bool)
    active[row, pair, 0] = pattern != 1
    active[row, pair, 1] = pattern != 0
    return _world(active[:, :NUM_PAIRS].flatten(1), torch.eye(NUM_CONCEPTS), seed)


def turned(world: World, degrees: float) -> World:
    """Return the same rows, their pairs of concepts turned within the planes they span.

    Where pairs always occur whole, nothing in the rows says which basis is true. At 45
    degrees one concept of each pair is all there is of it, and the other never present.
    """
    assert world.concepts is not None
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = torch.kron(torch.eye(NUM_PAIRS), torch.tensor([[cos, sin], [-sin, cos]]))
    directions = turn @ world.concepts.directions
    present = world.x @ directions.T
    return world._replace(concepts=Concepts(present.abs() > _ROUNDING, directions))


def monosemantic(world: World) -> Code:
    """Return the SAE with one latent a concept, which fires where that is present."""
    assert world.concepts is not None
    return Code(world.concepts.directions, world.concepts.active.float())


def _world(
    active: Bool[Tensor, "row concept"],
    directions: Float[Tensor, "concept d_in"],
    seed: int,
) -> World:
    x = active.float() @ directions
    unit = functional.normalize(x, dim=1).numpy()
    num_labels = min(_NUM_CLUSTERS, len(torch.unique(active, dim=0)))
    with threadpool_limits(limits=1):
        # More threads add the centres up in another order: other bits.
        labels = KMeans(num_labels, n_init=1, random_state=seed).fit(unit).labels_
    return World(
        x=x,
        embedding=x,
        labels=labels.astype(np.int32),
        num_labels=num_labels,
        concepts=Concepts(active, directions),
        seed=seed,
    )
