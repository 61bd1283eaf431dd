"""Tests of stability across seeds."""

import numpy as np
import pytest
import torch
from torch import Tensor

from trilemma.metrics import stability
from trilemma.metrics.stability import Dictionary, Stability


def measured(ours: Tensor, *others: Tensor, dead: int = 0) -> Stability:
    live = np.arange(len(ours)) >= dead
    theirs = [Dictionary(other, np.ones(len(other), dtype=bool)) for other in others]
    return stability.stability(Dictionary(ours, live), theirs, seed=0)


def value(found: Stability, name: str = "stability") -> float:
    number = found.metrics[name].value
    assert number is not None
    return number


@pytest.fixture
def ours() -> Tensor:
    return torch.randn(40, 24, generator=torch.Generator().manual_seed(0))


def test_the_same_directions_in_any_order_length_and_sign_are_stable(
    ours: Tensor,
) -> None:
    found = measured(ours, -3 * ours[torch.randperm(40)])
    assert value(found) == pytest.approx(1)
    assert value(found, "stable_fraction") == 1
    assert found.best == pytest.approx(np.ones(40))


def test_random_directions_are_as_stable_as_chance(ours: Tensor) -> None:
    generator = torch.Generator().manual_seed(1)
    found = measured(ours, torch.randn(40, 24, generator=generator))
    assert value(found) == pytest.approx(value(found, "stability_null"), abs=0.03)
    assert value(found, "stable_fraction") == 0


def test_no_latent_is_matched_twice(ours: Tensor) -> None:
    """Each of ours is near to the one direction that theirs repeats; one gets it."""
    near = ours[:1] + 0.01 * ours
    orthogonal = torch.linalg.qr(ours[:24].T).Q.T
    twice = torch.cat([near[:2], orthogonal[2:]])
    found = measured(torch.cat([near[:1], orthogonal[2:]]), twice)
    assert value(found) == pytest.approx(1)
    pair = measured(torch.eye(3, 24)[[0, 0]], torch.eye(3, 24)[[0, 1]])
    assert value(pair) == pytest.approx(0.5)
    assert pair.best == pytest.approx([1, 1])


def test_dead_latents_do_not_count(ours: Tensor) -> None:
    theirs = ours.clone()
    theirs[:10] = torch.eye(10, 24)
    found = measured(ours, theirs[10:], dead=10)
    assert value(found) == pytest.approx(1)
    assert np.isnan(found.best[:10]).all()
    assert found.metrics["stability"].n == 30


def test_the_mean_is_over_the_other_seeds(ours: Tensor) -> None:
    generator = torch.Generator().manual_seed(1)
    random = torch.randn(40, 24, generator=generator)
    alone = value(measured(ours, random))
    assert value(measured(ours, ours, random)) == pytest.approx((1 + alone) / 2)


def test_wide_dictionaries_are_matched_in_part(
    ours: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stability, "_MOST_COSINES", 400)
    found = measured(ours, ours.flip(0))
    assert found.metrics["stability"].n == 10
    assert value(found) == pytest.approx(1)
    assert found.best == pytest.approx(np.ones(40))


def test_one_seed_has_no_stability(ours: Tensor) -> None:
    found = measured(ours)
    assert {scalar.value for scalar in found.metrics.values()} == {None}
    reason = found.metrics["stability"].reason
    assert reason == "the family has no other seed of it"
    assert np.isnan(found.best).all()


def test_dead_saes_have_no_stability(ours: Tensor) -> None:
    for found in (measured(ours, ours, dead=40), measured(ours, ours[:0])):
        assert found.metrics["stability"].value is None
        assert found.metrics["stability"].reason == "no latent fired that has a match"
