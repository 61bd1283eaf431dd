"""Tests of the structured code, at outcomes whose joint entropy is known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trilemma.metrics.code_samples import codes_of, sparse_acts
from trilemma import activation_functions
from trilemma.metrics import rate, tree_code

NUM_ROWS = 10_000


def animals(p_animal: float, p_bird: float) -> Tensor:
    """Return rows of (animal, bird) in the stated shares; a bird is an animal."""
    row = torch.arange(NUM_ROWS)[:, None]
    ends = torch.tensor([p_animal, p_bird]) * NUM_ROWS
    return (row < ends.round()).float()


def tree_bits(acts: Tensor, parents: list[int]) -> float:
    codes = codes_of(acts)
    found = tree_code.code_length(codes, rate.symbols(codes, 0.3), np.array(parents))
    assert found.latent_bits.sum() == pytest.approx(found.bits.mean(), rel=1e-9)
    return float(found.bits.mean())


def flat_bits(acts: Tensor) -> float:
    codes = codes_of(acts)
    return float(rate.code_length(codes, rate.symbols(codes, 0.3)).bits.mean())


@pytest.mark.parametrize(
    ("p_animal", "p_bird", "tree", "disjoint", "overlapping"),
    [
        (0.1, 0.05, 0.5690, 0.5728, 0.7554),
        (0.3, 0.1, 1.1568, 1.1909, 1.3503),
        (0.1, 0.01, 0.5159, 0.5173, None),
    ],
)
def test_a_tree_costs_the_joint_entropy(
    p_animal: float,
    p_bird: float,
    tree: float,
    disjoint: float,
    overlapping: float | None,
) -> None:
    acts = animals(p_animal, p_bird)
    assert tree_bits(acts, [-1, 0]) == pytest.approx(tree, abs=5e-5)
    others = torch.stack([acts[:, 0] - acts[:, 1], acts[:, 1]], dim=1)
    assert flat_bits(others) == pytest.approx(disjoint, abs=5e-5)
    if overlapping is not None:
        assert flat_bits(acts) == pytest.approx(overlapping, abs=5e-5)


def test_a_tree_never_costs_more_than_the_same_latents_coded_apart() -> None:
    parents = torch.tensor([-1, -1, 0, 0, 1, 1, 2, 2])
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        pre_acts = torch.randn(2000, 8, generator=generator) + 0.3
        acts = activation_functions.tree(pre_acts, parents)
        assert tree_bits(acts, parents.tolist()) <= flat_bits(acts) + 1e-9


def test_a_latent_that_fires_more_than_its_parent_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="where its parent does not"):
        tree_bits(torch.tensor([[0.0, 1.0], [1.0, 1.0]]), [-1, 0])


def test_groups_of_one_cost_what_their_latents_cost() -> None:
    acts = sparse_acts(2000, 6, 0.2)
    parents = tree_code.group_parents(6, group_size=1)
    assert tree_bits(acts, parents.tolist()) == pytest.approx(flat_bits(acts))


def test_a_group_that_fires_as_one_is_named_once() -> None:
    acts = (sparse_acts(2000, 1, 0.1) > 0).float().expand(-1, 4).contiguous()
    parents = tree_code.group_parents(4, group_size=4)
    assert parents.tolist() == [4, 4, 4, 4, -1]
    assert tree_bits(acts, parents.tolist()) == pytest.approx(flat_bits(acts) / 4)


def test_a_silent_tree_costs_nothing() -> None:
    assert tree_bits(torch.zeros(10, 2), [-1, 0]) == 0
