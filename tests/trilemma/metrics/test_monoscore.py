"""Tests of MonoScore against its definition, and of what it cannot see."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trilemma.metrics.given import show
from trilemma.metrics.monoscore import MonoScore, Scores

WIDTH = 12


def fast(
    acts: Tensor, embeddings: Tensor, sizes: Sequence[int] | None = None
) -> Scores:
    d_sae, width = acts.shape[1], embeddings.shape[1]
    measure = MonoScore(
        d_sae, width, embed=lambda batch: batch.x[:, d_sae:], device=acts.device
    )
    show(acts, measure, beside=embeddings, sizes=sizes)
    return measure.scores()


def pairwise(acts: Tensor, embeddings: Tensor) -> list[float]:
    """Return the mean cosine over pairs of rows, as the paper defines it."""
    unit = torch.nn.functional.normalize(embeddings.double(), dim=1)
    first, second = torch.triu_indices(len(acts), len(acts), offset=1)
    cosine = (unit @ unit.T)[first, second]
    scores = []
    for column in acts.double().T:
        scaled = (column - column.min()) / (column.max() - column.min())
        weight = scaled[first] * scaled[second]
        scores.append(float((weight * cosine).sum() / weight.sum()))
    return scores


@pytest.fixture
def embeddings() -> Tensor:
    return torch.randn(300, WIDTH, generator=torch.Generator().manual_seed(0)) + 0.3


@pytest.fixture
def acts() -> Tensor:
    """Return a sparse latent, one on every row, one of either sign, one on two rows."""
    generator = torch.Generator().manual_seed(1)
    found = torch.rand(300, 4, generator=generator)
    found[:, 0] *= torch.rand(300, generator=generator) < 0.1
    found[:, 1] += 0.5
    found[:, 2] = (found[:, 2] - 0.5) * (torch.rand(300, generator=generator) < 0.2)
    found[:, 3] = 0
    found[[20, 110], 3] = torch.tensor([1.0, 3.0])
    return found


def test_the_fast_form_equals_the_mean_over_pairs(
    acts: Tensor, embeddings: Tensor
) -> None:
    found = fast(acts, embeddings).score
    assert found == pytest.approx(pairwise(acts, embeddings), abs=1e-9)


def test_batches_leave_no_trace_in_the_score(acts: Tensor, embeddings: Tensor) -> None:
    whole, parts = (fast(acts, embeddings, each) for each in ([300], [1, 7, 64, 228]))
    assert parts.score == pytest.approx(whole.score, abs=1e-9)
    assert parts.base_rate == pytest.approx(whole.base_rate, abs=1e-9)


def test_the_base_rate_is_the_mean_of_permuted_activations(
    acts: Tensor, embeddings: Tensor
) -> None:
    generator = torch.Generator().manual_seed(2)
    dealt = [
        fast(acts[torch.randperm(300, generator=generator)], embeddings).score
        for _ in range(300)
    ]
    mean, error = np.mean(dealt, 0), np.std(dealt, 0) / 300**0.5
    assert (np.abs(mean - fast(acts, embeddings).base_rate) < 4 * error).all()


def test_scale_and_order_of_latents_do_not_matter(
    acts: Tensor, embeddings: Tensor
) -> None:
    found = fast(acts, embeddings).score
    other = fast((acts * torch.tensor([0.01, 1, 7, 1000.0])).flip(1), embeddings).score
    assert other[::-1] == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(torch.zeros(300), id="dead"),
        pytest.param(torch.arange(300) == 7, id="one row"),
        pytest.param(torch.full((300,), 2.0), id="all equal"),
        # Sums of a tenth are rounded, where those of two are not.
        pytest.param(torch.full((300,), 0.1), id="all equal to a tenth"),
        pytest.param(torch.full((300,), 1e3 / 3), id="all equal and large"),
    ],
)
def test_a_latent_without_pairs_has_no_score(
    column: Tensor, embeddings: Tensor
) -> None:
    assert np.isnan(fast(column.float()[:, None], embeddings).score).all()


def test_a_row_without_a_direction_is_like_no_other(
    acts: Tensor, embeddings: Tensor
) -> None:
    embeddings[100:150] = 0
    found = fast(acts, embeddings).score
    assert found == pytest.approx(pairwise(acts, embeddings), abs=1e-6)


def test_a_conjunctive_merge_raises_the_score_and_a_disjunctive_one_lowers_it() -> None:
    """The blind spot: 16 concepts in pairs, P(one | other) = 0.2, x as embedding."""
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(6000, 8, generator=generator)
    second = torch.rand(6000, 8, generator=generator)
    i = first < 0.08
    j = torch.where(i, second < 0.2, second < 0.08 * 0.8 / 0.92)
    x = torch.cat([i, j], dim=1).float() + 1e-6
    alone = torch.cat([i, j], dim=1).float()
    conjunctive = torch.cat([i & ~j, j & ~i, i & j], dim=1).float()
    disjunctive = (i | j).float()
    apart, both, either = (
        float(np.mean(fast(acts, x).score))
        for acts in (alone, conjunctive, disjunctive)
    )
    assert either < apart < both
