"""Tests of sparsity: six axioms as properties, each measure against all of them."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trilemma.metrics.batches import cut
from trilemma.config.stages import Evaluation
from trilemma.metrics import sparsity

Measure = Callable[[Tensor], Tensor]

NUM_TRIALS = 4000
TOLERANCE = 1e-10


class Trials(NamedTuple):
    """Random codes, all of a length, with what the axioms do to them."""

    c: Tensor
    rich: Tensor
    """Index of an activation that is larger than ..."""
    poor: Tensor
    """... this one."""
    share: Tensor
    """A random number between 0.05 and 0.95 for each code."""


def trials(length: int, seed: int) -> Trials:
    """Return heavy-tailed codes; every other one has a zero, and none has two."""
    generator = torch.Generator().manual_seed(seed)
    shape = (NUM_TRIALS // 4, length)
    c = torch.randn(shape, generator=generator, dtype=torch.float64).exp()
    c[::2, 0] = 0.0
    chosen = torch.rand(shape, generator=generator).argsort(1)[:, :2]
    rich = torch.where(
        c.gather(1, chosen)[:, 0] > c.gather(1, chosen)[:, 1],
        chosen[:, 0],
        chosen[:, 1],
    )
    poor = chosen.sum(1) - rich
    share = 0.05 + 0.9 * torch.rand(len(c), generator=generator, dtype=torch.float64)
    return Trials(c, rich, poor, share)


# An even length, so that half the cloned activations are twice half of them.
ALL_TRIALS = [trials(length, seed) for seed, length in enumerate((4, 6, 8, 12))]


def is_larger(first: Tensor, second: Tensor) -> Tensor:
    """Return where the first is clearly larger and both are defined."""
    scale = first.abs().clamp(min=1).maximum(second.abs())
    finite = first.isfinite() & second.isfinite()
    return finite & (first - second > TOLERANCE * scale)


def is_equal(first: Tensor, second: Tensor) -> Tensor:
    scale = first.abs().clamp(min=1).maximum(second.abs())
    return (first - second).abs() <= TOLERANCE * scale


def moved(c: Tensor, index: Tensor, by: Tensor) -> Tensor:
    return c.scatter_add(1, index[:, None], by[:, None])


def robin_hood(measure: Measure, of: Trials) -> Tensor:
    """Giving from the rich to the poor makes a code less sparse."""
    row = torch.arange(len(of.c))
    gap = of.c[row, of.rich] - of.c[row, of.poor]
    given = of.share * gap / 2
    after = moved(moved(of.c, of.rich, -given), of.poor, given)
    return is_larger(measure(of.c), measure(after))


def scaling(measure: Measure, of: Trials) -> Tensor:
    """Scale does not matter."""
    return is_equal(measure(of.c), measure(5 * of.share[:, None] * of.c))


def rising_tide(measure: Measure, of: Trials) -> Tensor:
    """Adding the same to all makes a code less sparse."""
    return is_larger(measure(of.c), measure(of.c + of.share[:, None]))


def cloning(measure: Measure, of: Trials) -> Tensor:
    """A code twice over is as sparse as it was."""
    return is_equal(measure(of.c), measure(torch.cat([of.c, of.c], 1)))


def bill_gates(measure: Measure, of: Trials) -> Tensor:
    """Beyond some riches, getting richer still makes a code sparser."""
    riches = 100 * of.c.sum(1)
    holds = torch.ones(len(of.c), dtype=torch.bool)
    for index in (of.rich, of.poor):
        values = [
            measure(moved(of.c, index, factor * riches)) for factor in (1, 1.5, 3, 10)
        ]
        for less, more in itertools.pairwise(values):
            holds &= is_larger(more, less)
    return holds


def babies(measure: Measure, of: Trials) -> Tensor:
    """One more zero makes a code sparser."""
    with_baby = torch.cat([of.c, torch.zeros_like(of.c[:, :1])], 1)
    return is_larger(measure(with_baby), measure(of.c))


AXIOMS = {
    "D1": robin_hood,
    "D2": scaling,
    "D3": rising_tide,
    "D4": cloning,
    "P1": bill_gates,
    "P2": babies,
}

TRUTH = {
    "l0": {"D2", "P2"},
    "l0_epsilon": {"P2"},
    "minus_l1": {"D3"},
    "minus_lp": {"D1", "D3"},
    "l2_over_l1": {"D1", "D2", "D3", "P1"},
    "minus_tanh": {"D1", "D3"},
    "minus_log": {"D3"},
    "kappa4": {"D2", "D3", "P1"},
    "u_theta": {"D2", "D4", "P1"},
    "minus_negative_lp": {"P1"},
    "gaussian_entropy": {"D1", "D3"},
    "shannon_entropy": {"D2"},
    "unscaled_shannon_entropy": set(),
    "hoyer": {"D1", "D2", "D3", "P1", "P2"},
    "pq_mean": set(AXIOMS),
    "gini": set(AXIOMS),
}


@pytest.mark.parametrize("name", sparsity.MEASURES)
def test_a_measure_meets_the_axioms_that_it_should_and_no_others(name: str) -> None:
    measure = sparsity.MEASURES[name]
    met = set()
    for axiom, holds in AXIOMS.items():
        counted = [holds(measure, of)[measure(of.c).isfinite()] for of in ALL_TRIALS]
        if torch.cat(counted).all():
            met.add(axiom)
    assert met == TRUTH[name]


def test_there_are_sixteen_measures() -> None:
    assert len(sparsity.MEASURES) == len(TRUTH) == 16


def test_the_documents_have_the_same_table() -> None:
    documented = {}
    for line in Path("docs/theory.md").read_text().splitlines():
        name, *ticks = [cell.strip(" `") for cell in line.strip("|").split("|")]
        if name in TRUTH:
            assert len(ticks) == len(AXIOMS)
            documented[name] = set(itertools.compress(AXIOMS, ticks))
    assert documented == TRUTH


def test_negated_entropy_would_meet_three_axioms() -> None:
    def negated(c: Tensor) -> Tensor:
        return -sparsity.shannon_entropy(c)

    met = {
        axiom
        for axiom, holds in AXIOMS.items()
        if all(holds(negated, of).all() for of in ALL_TRIALS)
    }
    assert met == {"D2", "D3", "P1"}


@pytest.mark.parametrize(
    ("name", "dense", "one_hot"),
    [("gini", 0, 1 - 1 / 8), ("hoyer", 0, 1), ("pq_mean", -1, -(8 ** (1 / 2 - 2)))],
)
def test_the_ends_of_the_scale(name: str, dense: float, one_hot: float) -> None:
    codes = torch.stack([torch.full((8,), 3.0), 3.0 * torch.eye(8)[5]]).double()
    assert sparsity.MEASURES[name](codes).tolist() == pytest.approx(
        [dense, one_hot], abs=1e-12
    )


@pytest.mark.parametrize("name", ["gini", "hoyer", "pq_mean"])
def test_zeros_may_be_left_out(name: str) -> None:
    c = torch.tensor([[0.5, 2, 1], [3, 1, 1]], dtype=torch.float64)
    whole = torch.cat([torch.zeros(2, 7), c], 1)
    measure = sparsity.MEASURES[name]
    assert measure(c, length=10).tolist() == pytest.approx(  # type: ignore[call-arg]
        measure(whole).tolist()
    )


def codes() -> Tensor:
    """Return 40 codes of 12 latents; every fifth is silent."""
    generator = torch.Generator().manual_seed(0)
    acts = torch.rand(40, 12, generator=generator)
    acts *= torch.rand(40, 12, generator=generator) < 0.3
    acts[::5] = 0
    return acts


def summed(acts: Tensor, sizes: list[int]) -> sparsity.Sparsity:
    found = sparsity.Sparsity(num_documents=4, d_sae=acts.shape[1])
    for batch in cut(acts, np.arange(len(acts)) // 10, sizes):
        found.add(batch)
    return found


@pytest.mark.parametrize("name", ["gini", "hoyer", "pq_mean"])
def test_the_mean_is_over_tokens_that_have_a_code(name: str) -> None:
    acts = codes()
    fires = acts.sum(1) > 0
    expected = sparsity.MEASURES[name](acts[fires].double()).mean()
    found = summed(acts, [40]).scalars(Evaluation())[name]
    assert found.value == pytest.approx(float(expected), rel=1e-12)
    assert found.n == int(fires.sum()) < 40
    assert found.ci_low is not None and found.ci_high is not None
    assert found.ci_low < float(expected) < found.ci_high


def test_batches_leave_no_trace() -> None:
    whole = summed(codes(), [40]).scalars(Evaluation())
    parts = summed(codes(), [1, 7, 32]).scalars(Evaluation())
    for name, scalar in whole.items():
        assert parts[name][:3] == pytest.approx(scalar[:3], rel=1e-12)


def test_the_sign_of_activations_does_not_matter() -> None:
    assert summed(codes(), [40]).scalars(Evaluation()) == summed(
        -codes(), [40]
    ).scalars(Evaluation())


def test_a_code_that_never_fires_has_no_sparsity() -> None:
    for scalar in summed(torch.zeros(20, 3), [20]).scalars(Evaluation()).values():
        assert scalar.value is None
        assert scalar.reason == "no latent fired"


def test_a_single_latent_has_no_hoyer_sparsity() -> None:
    found = summed(torch.ones(20, 1), [20]).scalars(Evaluation())
    assert found["gini"].value == 0
    assert found["hoyer"].value is None
    assert found["hoyer"].reason == "a single latent is neither dense nor sparse"
