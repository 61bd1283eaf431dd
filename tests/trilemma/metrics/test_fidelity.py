"""Tests of fidelity with an LM of one lookup and one matrix."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.trilemma.lookup_lm import LookupLM
from trilemma.metrics import fidelity
from trilemma.sequences import Sequences

VOCAB, D_IN, CTX = 30, 8, 12


@dataclass
class Shrinking:
    """A code that keeps a share of every activation."""

    share: float

    @property
    def W_dec(self) -> Tensor:
        return torch.eye(D_IN)

    def encode(self, x: Tensor) -> Tensor:
        return self.share * x

    def decode(self, acts: Tensor) -> Tensor:
        return acts


@pytest.fixture
def lm() -> LookupLM:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(VOCAB, D_IN, generator=generator)
    return LookupLM(table, torch.randn(D_IN, VOCAB, generator=generator))


@pytest.fixture
def batch(lm: LookupLM) -> Sequences:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, VOCAB, (10, CTX), generator=generator)
    mask = torch.zeros(10, CTX, dtype=torch.uint8)
    mask[:, 0] = 2
    document = torch.arange(10)[:, None].expand(10, CTX) // 2 + 100
    return Sequences(tokens, document, mask, lm.table[tokens])


DOCUMENTS = np.arange(100, 105)


def splice(
    share: float, lm: LookupLM, batches: list[Sequences], num_seqs: int = 10
) -> fidelity.Splices:
    return fidelity.splices(
        Shrinking(share),
        lm,
        batches,
        hook="only",
        documents=DOCUMENTS,
        num_seqs=num_seqs,
        batch_seqs=4,
        seed=0,
    )


def ablate(
    lm: LookupLM, batches: list[Sequences], others: Tensor | None = None, seed: int = 0
) -> fidelity.Ablations:
    return fidelity.ablations(
        lm,
        batches,
        hook="only",
        mean=torch.ones(D_IN),
        others=torch.zeros(1, D_IN) if others is None else others,
        documents=DOCUMENTS,
        num_seqs=10,
        batch_seqs=4,
        seed=seed,
    )


def cut(batch: Sequences, sizes: tuple[int, ...]) -> list[Sequences]:
    parts = zip(*(part.split(sizes) for part in batch), strict=True)
    return [Sequences(*part) for part in parts]


def test_a_perfect_reconstruction_loses_nothing(lm: LookupLM, batch: Sequences) -> None:
    found, clean = splice(1.0, lm, [batch]), ablate(lm, [batch])
    assert np.array_equal(found.ce, clean.clean)
    assert np.array_equal(found.kl, np.zeros(5))
    assert np.array_equal(found.kl_noise, np.zeros(5))
    assert np.array_equal(found.top1_agree, found.num_tokens)


def test_a_reconstruction_of_zero_is_the_zero_ablation(
    lm: LookupLM, batch: Sequences
) -> None:
    assert np.array_equal(splice(0.0, lm, [batch]).ce, ablate(lm, [batch]).zero)


def test_each_ablation_replaces_by_its_own_rows(lm: LookupLM, batch: Sequences) -> None:
    found = ablate(lm, [batch], others=torch.ones(3, D_IN))
    assert np.array_equal(found.resample, found.mean)
    assert not np.array_equal(found.zero, found.mean)
    found = ablate(lm, [batch], others=torch.zeros(3, D_IN))
    assert np.array_equal(found.resample, found.zero)


def test_resampled_rows_follow_from_the_seed_and_not_from_the_batches(
    lm: LookupLM, batch: Sequences
) -> None:
    whole = ablate(lm, [batch], others=lm.table).resample
    parts = ablate(lm, cut(batch, (1, 7, 2)), others=lm.table).resample
    assert parts == pytest.approx(whole, rel=1e-6)
    other = ablate(lm, [batch], others=lm.table, seed=1).resample
    assert not np.allclose(other, whole, rtol=1e-3)


def test_the_random_error_is_as_long_as_that_of_the_sae(
    lm: LookupLM, batch: Sequences
) -> None:
    seen: list[Tensor] = []

    class Spy(LookupLM):
        def logits_replaced(self, tokens: Tensor, hook: str, x_hat: Tensor) -> Tensor:
            seen.append(x_hat)
            return super().logits_replaced(tokens, hook, x_hat)

    splice(0.5, Spy(lm.table, lm.unembedding), [batch])
    x, spliced, noisy = batch.x, torch.cat(seen[0::2]), torch.cat(seen[1::2])
    assert not torch.allclose(noisy, spliced)
    torch.testing.assert_close((x - noisy).norm(dim=-1), (x - spliced).norm(dim=-1))


def test_the_clean_loss_is_the_cross_entropy_of_unmasked_tokens(
    lm: LookupLM, batch: Sequences
) -> None:
    expected = functional.cross_entropy(
        lm.logits(batch.tokens)[:, 1:-1].reshape(-1, VOCAB),
        batch.tokens[:, 2:].reshape(-1),
    )
    found = ablate(lm, [batch])
    pooled = found.clean.sum() / found.num_tokens.sum()
    assert found.num_tokens.sum() == 10 * (CTX - 2)
    assert pooled == pytest.approx(float(expected), rel=1e-6)


def test_kl_is_that_of_the_clean_to_the_spliced_predictions(
    lm: LookupLM, batch: Sequences
) -> None:
    clean = lm.logits(batch.tokens)[:, 1:-1].double().log_softmax(-1)
    other = (batch.x[:, 1:-1] / 2 @ lm.unembedding).double().log_softmax(-1)
    expected = (clean.exp() * (clean - other)).sum(-1).mean()
    found = splice(0.5, lm, [batch])
    pooled = found.kl.sum() / found.num_tokens.sum()
    assert pooled == pytest.approx(float(expected), rel=1e-5)


def test_impossible_tokens_leave_kl_finite(lm: LookupLM, batch: Sequences) -> None:
    lm.unembedding[:, 3] = 0
    lm.unembedding[0, 3] = -1e4
    found = splice(0.5, lm, [batch])
    assert np.isfinite(found).all()
    assert found.kl.sum() > 0


def test_masked_tokens_are_not_replaced(lm: LookupLM, batch: Sequences) -> None:
    batch.mask[:] = 1
    batch.mask[:, 5] = 0
    marked = batch._replace(x=batch.x.clone())
    seen: list[Tensor] = []

    class Spy(LookupLM):
        def logits_replaced(self, tokens: Tensor, hook: str, x_hat: Tensor) -> Tensor:
            seen.append(x_hat)
            return super().logits_replaced(tokens, hook, x_hat)

    splice(0.0, Spy(lm.table, lm.unembedding), [marked])
    replaced = torch.cat(seen[0::2])
    assert (replaced[:, 5] == 0).all()
    kept = [pos for pos in range(CTX) if pos != 5]
    for spliced in (replaced, torch.cat(seen[1::2])):
        assert torch.equal(spliced[:, kept], marked.x[:, kept])


def test_batches_leave_no_trace(lm: LookupLM, batch: Sequences) -> None:
    whole, parts = splice(0.5, lm, [batch]), splice(0.5, lm, cut(batch, (1, 7, 2)))
    assert np.array_equal(whole.num_tokens, parts.num_tokens)
    for one, other in zip(whole, parts, strict=True):
        assert other == pytest.approx(one, rel=1e-6)


def test_only_the_first_sequences_are_read(lm: LookupLM, batch: Sequences) -> None:
    found = splice(0.5, lm, [batch, batch], num_seqs=7)
    assert found.num_tokens.sum() == 7 * (CTX - 2)
