"""Tests of strata and of distance from chance, over codes whose mixture is known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trilemma.metrics.given import show
from trilemma.metrics import strata
from trilemma.metrics.strata import Means, Strata

NUM_ROWS, NUM_LABELS, NUM_BLOCKS = 20_000, 10, 20


@pytest.fixture
def labels() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, NUM_LABELS, (NUM_ROWS,), generator=generator)


@pytest.fixture
def strength() -> Tensor:
    return torch.rand(NUM_ROWS, generator=torch.Generator().manual_seed(1)) + 0.5


def sampled(acts: Tensor, sizes: list[int] | None = None) -> strata.Sampled:
    measure = strata.Firings(
        acts.shape[1], num_blocks=NUM_BLOCKS, seed=0, device=acts.device
    )
    show(acts, measure, sizes=sizes)
    return measure.sampled()


def measured(acts: Tensor, labels: Tensor) -> tuple[Strata, Means]:
    return strata.strata(
        sampled(acts),
        labels.numpy(),
        num_labels=NUM_LABELS,
        d_sae=acts.shape[1],
        seed=0,
    )


def test_a_latent_mixed_only_where_it_is_weak_has_a_pure_top(
    labels: Tensor, strength: Tensor
) -> None:
    strong = (labels == 3) * (strength + 5)
    acts = (strong + (strength < 0.6) * strength)[:, None]
    columns, means = measured(acts, labels)
    assert columns.n_eff_top[0] == pytest.approx(1)
    assert columns.purity_top[0] == pytest.approx(1)
    assert means.ratio_top.value < means.ratio.value < 1


def test_a_latent_that_fires_at_random_is_at_chance_in_every_stratum(
    strength: Tensor, labels: Tensor
) -> None:
    generator = torch.Generator().manual_seed(2)
    fires = torch.rand(NUM_ROWS, 50, generator=generator) < 0.05
    columns, means = measured(fires * strength[:, None], labels)
    assert means.ratio_top.value == pytest.approx(1, abs=0.05)
    assert means.ratio.value == pytest.approx(1, abs=0.02)
    assert abs(means.poly_z.value) < 4 / 50**0.5
    assert np.std(columns.poly_z) == pytest.approx(1, abs=0.4)


def test_distance_from_chance_does_not_depend_on_density(
    labels: Tensor, strength: Tensor
) -> None:
    generator = torch.Generator().manual_seed(3)
    allowed = (labels < 3) * strength
    shares = torch.tensor([1.0, 0.3, 0.1]).repeat_interleave(20)
    fires = torch.rand(NUM_ROWS, 60, generator=generator) < shares
    columns, _ = measured(fires * allowed[:, None], labels)
    found = columns.poly_z.reshape(3, 20)
    error = found.std(1, ddof=1) / 20**0.5
    assert (found.mean(1) < -5).all()
    assert abs(found[0].mean() - found[2].mean()) < 4 * np.hypot(error[0], error[2])


def test_chance_has_the_mixture_of_the_rows(strength: Tensor) -> None:
    skewed = torch.zeros(NUM_ROWS, dtype=torch.int64)
    skewed[::10] = 1
    columns, _ = measured(strength[:, None], skewed)
    assert columns.purity_top_null[0] == pytest.approx(0.9, abs=0.05)


def test_strata_do_not_depend_on_scale_or_order_of_latents(
    labels: Tensor, strength: Tensor
) -> None:
    generator = torch.Generator().manual_seed(4)
    fires = torch.rand(NUM_ROWS, 4, generator=generator) < 0.2
    acts = fires * strength[:, None] * (labels[:, None] < torch.tensor([1, 2, 5, 10]))
    found, _ = measured(acts, labels)
    scaled, _ = measured(acts * 1024, labels)
    for column, expected in zip(scaled, found, strict=True):
        assert column == pytest.approx(expected)


def test_batches_leave_no_trace_in_the_sample(strength: Tensor) -> None:
    acts = strength[:, None] * torch.ones(3)
    whole, parts = sampled(acts), sampled(acts, [1, 7, 64, 9928, 10_000])
    for column, expected in zip(parts, whole, strict=True):
        assert np.array_equal(column, expected)


def test_a_latent_that_fires_too_seldom_has_no_strata(labels: Tensor) -> None:
    acts = torch.zeros(NUM_ROWS, 2)
    acts[: strata.LEAST_FIRINGS - 1, 0] = 1
    acts[: strata.LEAST_FIRINGS, 1] = 1
    columns, means = measured(acts, labels)
    assert [list(np.isnan(column)) for column in columns] == [[True, False]] * 5
    assert means.num_latents == 1


def test_a_code_that_never_fires_has_no_means(labels: Tensor) -> None:
    _, means = measured(torch.zeros(NUM_ROWS, 2), labels)
    assert means.num_latents == 0
    assert all(interval == (None, None, None) for interval in means[:-1])


def test_deals_that_all_agree_leave_no_distance_from_chance(strength: Tensor) -> None:
    """With a label for each row every deal is as mixed, up to rounding."""
    acts = torch.zeros(NUM_ROWS, 1)
    acts[: strata.LEAST_FIRINGS, 0] = strength[: strata.LEAST_FIRINGS]
    columns, means = strata.strata(
        sampled(acts), np.arange(NUM_ROWS), num_labels=NUM_ROWS, d_sae=1, seed=1
    )
    assert np.isnan(columns.poly_z).all()
    found = strata.scalars(means, num_blocks=NUM_BLOCKS, seed=1)
    assert found["poly_z"].reason == "all deals of labels by chance agree"
    assert found["polysemanticity_strata"].value is not None


def test_one_document_leaves_means_without_intervals(labels: Tensor) -> None:
    found = sampled(torch.ones(NUM_ROWS, 1))
    one = found._replace(block=np.zeros_like(found.block))
    _, means = strata.strata(
        one, labels.numpy(), num_labels=NUM_LABELS, d_sae=1, seed=0
    )
    assert means.ratio.value is not None
    assert means.ratio.ci_low is None
