"""Tests of semantic consistency."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trilemma.metrics.given import show
from trilemma.metrics import consistency
from trilemma.metrics.consistency import Classes, Consistency, DocumentClasses

NUM_ROWS, NUM_CLASSES = 8000, 4


@pytest.fixture
def tokens() -> Tensor:
    """Return tokens of which half are of class 0."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 6, (NUM_ROWS,), generator=generator)


CLASS_OF = torch.tensor([0, 0, 0, 1, 2, 3])


def measured(
    acts: Tensor, tokens: Tensor, sizes: list[int] | None = None
) -> Consistency:
    measure = Classes(
        acts.shape[1],
        NUM_CLASSES,
        classes=consistency.by_token(CLASS_OF),
        device=acts.device,
    )
    show(acts, measure, tokens=tokens, sizes=sizes)
    return measure.consistency(seed=0)


def test_the_share_of_the_most_frequent_class_counts_firings(tokens: Tensor) -> None:
    acts = torch.stack([tokens == 4, (tokens == 3) | (tokens == 5)], dim=1).float()
    acts[:, 1] *= torch.linspace(1e-6, 1e3, NUM_ROWS)
    found = measured(acts, tokens).share
    rows = np.bincount(CLASS_OF[tokens].numpy())
    assert found[0] == 1
    assert found[1] == rows[[1, 3]].max() / rows[[1, 3]].sum()


def test_a_latent_that_fires_at_random_is_as_consistent_as_chance(
    tokens: Tensor,
) -> None:
    generator = torch.Generator().manual_seed(1)
    shares = torch.tensor([0.5, 0.05, 0.002]).repeat_interleave(100)
    fires = torch.rand(NUM_ROWS, 300, generator=generator) < shares
    found = measured(fires.float(), tokens)
    excess = (found.share - found.null).reshape(3, 100)
    error = excess.std(1, ddof=1) / 10
    assert (np.abs(excess.mean(1)) < 4 * error).all()
    # Few firings agree by chance more often than many.
    assert (np.diff(found.null.reshape(3, 100).mean(1)) > 0).all()


def test_batches_leave_no_trace_in_counts(tokens: Tensor) -> None:
    acts = (tokens[:, None] < torch.tensor([1, 3, 5])).float()
    whole, parts = (measured(acts, tokens, s) for s in ([8000], [1, 7, 64, 7928]))
    assert np.array_equal(whole.share, parts.share)


def test_classes_may_be_a_column_with_a_label_for_every_row(tokens: Tensor) -> None:
    column = CLASS_OF[tokens].int()
    acts = (tokens == 4).float()[:, None]
    measure = Classes(
        1, NUM_CLASSES, classes=consistency.by_position(column), device=acts.device
    )
    show(acts, measure, sizes=[3000, 5000])
    assert measure.consistency(seed=0).share[0] == 1


def test_a_silent_latent_has_no_consistency(tokens: Tensor) -> None:
    found = measured(torch.zeros(NUM_ROWS, 2), tokens)
    assert np.isnan(found.share).all()
    assert np.isnan(found.null).all()


def by_document(
    acts: Tensor, document: Tensor, labels: list[int], sizes: list[int] | None = None
) -> Consistency:
    measure = DocumentClasses(
        acts.shape[1],
        torch.tensor(labels, dtype=torch.int32),
        seed=0,
        device=acts.device,
    )
    show(acts, measure, document=document, sizes=sizes)
    return measure.consistency()


def test_only_firings_in_documents_with_a_label_count() -> None:
    document = torch.tensor([0, 0, 0, 1, 2, 3, 3, 3])
    acts = torch.zeros(8, 4)
    acts[[0, 3], 0] = 1  # in two documents of one label
    acts[[1, 2, 4, 5, 6, 7], 1] = 1  # two of three firings that count
    acts[5:, 2] = 1  # in the document without a label
    acts[[0, 6, 7], 3] = 1
    found = by_document(acts, document, [0, 0, 1, -1])
    expected = np.array([1, 2 / 3, np.nan, 1])
    np.testing.assert_allclose(found.share, expected, equal_nan=True)
    assert np.array_equal(np.isnan(found.null), np.isnan(expected))
    assert found.num_rows == 5


def test_a_latent_of_one_document_is_no_more_consistent_than_chance() -> None:
    document = torch.arange(200) // 10
    acts = (document[:, None] == torch.arange(20)).float()
    found = by_document(acts, document, [n % 5 for n in range(20)])
    assert (found.share == 1).all()
    assert (found.null == 1).all()


def test_chance_deals_labels_to_documents_and_not_to_firings() -> None:
    generator = np.random.default_rng(0)
    num_latents, num_documents, num_labels, num_own = 400, 40, 4, 5
    document = torch.arange(num_documents).repeat_interleave(25)
    acts = torch.zeros(len(document), num_latents)
    for latent in range(num_latents):
        own = generator.choice(num_documents, num_own, replace=False)
        acts[:, latent] = torch.isin(document, torch.from_numpy(own))
    labels = [number % num_labels for number in range(num_documents)]
    found = by_document(acts, document, labels)
    drawn = generator.multivariate_hypergeometric([10] * 4, num_own, size=100_000)
    expected = drawn.max(1).mean() / num_own
    assert found.null.mean() == pytest.approx(expected, abs=0.02)
    assert found.share.mean() == pytest.approx(expected, abs=0.03)
    # Dealt to each firing alone, labels would hardly agree.
    counts = generator.multinomial(25 * num_own, [0.25] * 4, size=1000)
    assert counts.max(1).mean() / (25 * num_own) < expected - 0.1


def test_a_latent_that_follows_a_label_exceeds_chance() -> None:
    document = torch.arange(4000) // 100
    labels = torch.arange(40) % 4
    acts = (labels[document][:, None] == torch.arange(4)).float()
    found = by_document(acts, document, labels.tolist())
    assert (found.share == 1).all()
    assert (found.null < 0.6).all()


def test_batches_leave_no_trace_in_documents() -> None:
    generator = torch.Generator().manual_seed(0)
    document = torch.arange(1000) // 20
    acts = (torch.rand(1000, 6, generator=generator) < 0.1).float()
    labels = [n % 4 - 1 for n in range(50)]
    whole, parts = (
        by_document(acts, document, labels, sizes)
        for sizes in ([1000], [1, 7, 64, 928])
    )
    assert np.array_equal(whole.share, parts.share)
    assert np.array_equal(whole.null, parts.null)


def test_where_no_document_has_a_label_there_is_a_reason_and_no_number() -> None:
    found = by_document(torch.ones(20, 2), torch.arange(20) // 10, [-1, -1])
    told = consistency.scalars(
        found, "document", label="document label", chance="dealt anew", seed=0
    )
    assert set(told) == {"consistency_document", "consistency_document_null"}
    for scalar in told.values():
        assert scalar.value is None
        assert scalar.reason == "no row has a document label"
