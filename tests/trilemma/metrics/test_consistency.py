"""Tests of semantic consistency."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trilemma.metrics.given import show
from trilemma.metrics import consistency
from trilemma.metrics.consistency import Classes, Consistency

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
