"""MonoLoss: what it is of known codes, and what it does."""

import pytest
import torch
from torch import Tensor

from tests.trilemma.kinds.samples import BATCH, batch_of, kind_of, rows
from tests.trilemma.terms.training import trained
from trilemma.codes import Code
from trilemma.config.terms import Monosemanticity, Terms
from trilemma.kinds.kind import Forward
from trilemma.terms import monosemanticity


def value(acts: Tensor, x: Tensor) -> float:
    batch = batch_of(kind_of("relu"), x)
    forward = Forward(x, torch.zeros(()), None, Code(acts, None))
    weights = {"b_enc": torch.zeros(acts.shape[1])}
    return float(monosemanticity.value(weights, batch, forward))


def test_a_latent_on_rows_of_one_direction_costs_nothing() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 6.0], [-1.0, 0.0]])
    assert value(torch.tensor([[1.0], [2.0], [0.0]]), x) == pytest.approx(0, abs=1e-6)


def test_a_latent_on_opposite_rows_costs_two() -> None:
    x = torch.tensor([[1.0, 2.0], [-3.0, -6.0], [1.0, 0.0]])
    assert value(torch.tensor([[1.0], [2.0], [0.0]]), x) == pytest.approx(2)


def test_latents_on_fewer_than_two_rows_do_not_count() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    two = torch.tensor([[1.0], [1.0], [0.0]])
    others = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert value(torch.cat([two, others], 1), x) == pytest.approx(value(two, x))
    assert value(others, x) == 0


def test_the_units_of_activations_do_not_matter() -> None:
    x = rows(50)
    acts = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).relu()
    assert value(100 * acts, x) == pytest.approx(value(acts, x), rel=1e-5)


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_it_lets_latents_fire_on_rows_that_are_alike(kind: str) -> None:
    term = Terms(monosemanticity=Monosemanticity(coefficient=5.0))
    x = rows(8 * BATCH)
    with_it, without = (
        value(trained(kind, terms).export().encode(x).detach(), x)
        for terms in (term, None)
    )
    assert with_it < 0.9 * without
