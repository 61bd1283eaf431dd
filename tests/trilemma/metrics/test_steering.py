"""Steering moves predictions as the logits say, and not where nothing is added."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trilemma.lookup_lm import LookupLM
from trilemma.config.stages import Evaluation
from trilemma.metrics import steering
from trilemma.sequences import Sequences

VOCAB, D_IN, CTX = 30, 8, 12
DOCUMENTS = np.arange(100, 105)


class Identity:
    """A latent for each dimension, of either sign."""

    W_dec = torch.eye(D_IN)

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, acts: Tensor) -> Tensor:
        return acts


@pytest.fixture
def lm() -> LookupLM:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(VOCAB, D_IN, generator=generator)
    unembedding = torch.randn(D_IN, VOCAB, generator=generator)
    unembedding[7] = 0
    return LookupLM(table, unembedding)


@pytest.fixture
def batch(lm: LookupLM) -> Sequences:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, VOCAB, (10, CTX), generator=generator)
    mask = torch.zeros(10, CTX, dtype=torch.uint8)
    mask[:, 0] = 2
    document = torch.arange(10)[:, None].expand(10, CTX) // 2 + 100
    return Sequences(tokens, document, mask, lm.table[tokens])


def steer(
    lm: LookupLM, batches: list[Sequences], strength: list[float]
) -> steering.Effects:
    return steering.effects(
        Identity(),
        lm,
        batches,
        hook="only",
        documents=DOCUMENTS,
        latents=np.array([2, 7]),
        strength=np.array(strength),
        num_seqs=6,
        batch_seqs=4,
        seed=0,
    )


def test_nothing_added_changes_nothing(lm: LookupLM, batch: Sequences) -> None:
    found = steer(lm, [batch], [0.0, 0.0])
    assert not found.kl.any()
    assert not found.shifted.any()
    assert not found.random_kl.any()


def test_the_effect_is_that_of_the_direction_alone(
    lm: LookupLM, batch: Sequences
) -> None:
    found = steer(lm, [batch], [1.5, 1.5])
    clean = lm.logits(batch.tokens)[:6, 1:-1].double().log_softmax(-1)
    steered = (clean + 1.5 * lm.unembedding[2]).log_softmax(-1)
    kl = (clean.exp() * (clean - steered)).sum(-1).sum()
    moved = (clean.argmax(-1) != steered.argmax(-1)).sum()
    assert found.num_tokens.tolist() == [20, 20, 20, 0, 0]
    assert found.kl[:, 0].sum() == pytest.approx(float(kl), rel=1e-5)
    assert found.shifted[:, 0].sum() == int(moved) > 0


def test_a_direction_that_the_lm_ignores_has_no_effect(
    lm: LookupLM, batch: Sequences
) -> None:
    found = steer(lm, [batch], [1.5, 1.5])
    assert found.kl[:, 1].sum() == pytest.approx(0, abs=1e-4)
    assert found.random_kl[:, 1].sum() > 1


def test_runs_are_counted_and_batches_leave_no_trace(
    lm: LookupLM, batch: Sequences
) -> None:
    uneven = [
        Sequences(*(part[start:stop] for part in batch))
        for start, stop in ((0, 1), (1, 8), (8, 10))
    ]
    whole, parts = steer(lm, [batch], [1.0, 2.0]), steer(lm, uneven, [1.0, 2.0])
    assert whole.num_runs == parts.num_runs == 6 * (1 + 2 * 2)
    assert np.allclose(whole.kl, parts.kl, rtol=1e-5)
    assert np.array_equal(whole.shifted, parts.shifted)


def test_the_method_names_the_bootstrap_that_is_used(
    lm: LookupLM, batch: Sequences
) -> None:
    found = steering.scalars(
        steer(lm, [batch], [1.0, 1.0]), Evaluation(num_resamples=50)
    )
    for name, scalar in found.items():
        assert scalar.method.endswith("; studentised document bootstrap"), name
