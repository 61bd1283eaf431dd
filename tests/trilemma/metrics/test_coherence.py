"""Tests of embedding coherence, over embeddings whose likeness is known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trilemma.metrics.given import show
from trilemma.metrics.coherence import NUM_LATENTS, Coherence, Examples

NUM_ROWS, WIDTH = 4000, 32


def coherence(
    acts: Tensor, embeddings: Tensor, sizes: list[int] | None = None
) -> Coherence:
    d_sae = acts.shape[1]
    examples = Examples(
        d_sae, embed=lambda batch: batch.x[:, d_sae:], seed=0, device=acts.device
    )
    show(acts, examples, beside=embeddings, sizes=sizes)
    return examples.coherence()


@pytest.fixture
def topic() -> Tensor:
    return torch.randint(0, 4, (NUM_ROWS,), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def embeddings(topic: Tensor) -> Tensor:
    """Return embeddings in which rows of a topic have a cosine of a half."""
    noise = torch.randn(NUM_ROWS, WIDTH, generator=torch.Generator().manual_seed(1))
    return torch.eye(4, WIDTH)[topic] + noise / WIDTH**0.5


@pytest.fixture
def strength() -> Tensor:
    return torch.rand(NUM_ROWS, generator=torch.Generator().manual_seed(2)) + 0.5


def test_a_latent_of_one_topic_is_coherent_and_a_random_one_is_not(
    topic: Tensor, embeddings: Tensor, strength: Tensor
) -> None:
    random = torch.rand(NUM_ROWS, generator=torch.Generator().manual_seed(3)) < 0.25
    acts = torch.stack([topic == 1, random], dim=1) * strength[:, None]
    found = coherence(acts, embeddings)
    # Silent rows are of the other three topics: two of them agree once in three.
    assert found.delta_plus == pytest.approx([1 / 2, 0], abs=0.04)
    assert found.delta_minus == pytest.approx([-1 / 6, 0], abs=0.04)
    assert found.solved[0] == 1
    assert found.solved[1] < 1


def test_deciles_are_compared_within_themselves(
    topic: Tensor, embeddings: Tensor, strength: Tensor
) -> None:
    """A latent whose topic changes with its strength is coherent at each strength."""
    acts = ((topic == 1) * strength + (topic == 2) * (strength + 5))[:, None]
    assert coherence(acts, embeddings).delta_plus > 0.4


def test_batches_leave_no_trace_in_coherence(
    topic: Tensor, embeddings: Tensor, strength: Tensor
) -> None:
    acts = ((topic == 1) * strength)[:, None]
    whole = coherence(acts, embeddings)
    parts = coherence(acts, embeddings, [1, 7, 64, 3928])
    for part, expected in zip(parts, whole, strict=True):
        assert np.array_equal(part, expected)


def test_latents_that_fire_too_seldom_or_always_are_left_out(
    topic: Tensor, embeddings: Tensor
) -> None:
    acts = torch.zeros(NUM_ROWS, 4)
    acts[:99, 0] = 1
    acts[:100, 1] = 1
    acts[:, 2] = 1
    assert coherence(acts, embeddings).latent.tolist() == [1]


def test_a_bounded_number_of_latents_is_drawn(embeddings: Tensor) -> None:
    acts = torch.ones(250, 2 * NUM_LATENTS)
    acts[::2] = 0
    found = coherence(acts, embeddings[:250]).latent
    assert len(found) == NUM_LATENTS
    assert found.max() > NUM_LATENTS
