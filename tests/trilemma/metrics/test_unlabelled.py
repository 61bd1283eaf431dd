"""Tests of what is said of latents without known features, of sound SAEs and odd."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trilemma.metrics.given import Given
from trilemma.config.stages import Evaluation
from trilemma.metrics.baseline import Baseline, baseline
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.streaming import stream
from trilemma.metrics.unlabelled import Found, Text, Unlabelled
from trilemma.sequences import Sequences

NUM_SEQS, CTX, D_SAE, VOCAB = 64, 32, 6, 12
CONFIG = Evaluation(num_clusters=3, num_resamples=50, context_tokens=4)
TEXT = Text(
    torch.randn(VOCAB, 8, generator=torch.Generator().manual_seed(0)),
    [" the", "ing", "(", " 42", " Paris", "é", "_a", " of", " in", "ed", ".", "\n"],
)


@dataclass
class Encoder:
    """A language model that has embeddings and predicts nothing."""

    predicts_next: bool = False

    def embedding(self) -> Tensor:
        return TEXT.embedding

    def logits(self, tokens: Tensor) -> Tensor:
        raise AssertionError("an encoder has no logits")

    def logits_replaced(self, tokens: Tensor, hook: str, x_hat: Tensor) -> Tensor:
        raise AssertionError("an encoder has no logits")


@pytest.fixture
def tokens() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, VOCAB, (NUM_SEQS, CTX), generator=generator)


@pytest.fixture
def acts(tokens: Tensor) -> Tensor:
    """Return latents of one token, of two, and of a fifth of all rows."""
    generator = torch.Generator().manual_seed(2)
    flat = tokens.reshape(-1, 1)
    fires = flat == torch.arange(D_SAE)
    fires[:, 1] |= flat[:, 0] == 7
    fires[:, 5] = torch.rand(len(flat), generator=generator) < 0.2
    return fires * (0.5 + torch.rand(len(flat), D_SAE, generator=generator))


def found(
    acts: Tensor,
    tokens: Tensor,
    *,
    num_documents: int = NUM_SEQS,
    size: int = NUM_SEQS,
    labels: np.ndarray | None = None,
) -> Found:
    document = torch.arange(NUM_SEQS)[:, None].expand(NUM_SEQS, CTX) % num_documents
    whole = Sequences(
        tokens,
        document.contiguous(),
        torch.zeros(NUM_SEQS, CTX, dtype=torch.uint8),
        acts.reshape(NUM_SEQS, CTX, D_SAE),
    )

    def batches() -> Iterator[Sequences]:
        for start in range(0, NUM_SEQS, size):
            yield Sequences(*(part[start : start + size] for part in whole))

    common: Baseline = baseline(
        CONFIG,
        eval_batches=batches,
        train_rows=acts,
        mean=acts.mean(0),
        lm=Encoder(),
        hook="blocks.0.hook_resid_post",
        document_labels=labels,
    )
    sae = Given(D_SAE)
    measured = Unlabelled(sae, CONFIG, common, text=TEXT)
    stream(sae, common.rows(batches()), measured.measures)
    return measured.found(is_live=(acts != 0).any(0).numpy())


def defined(metrics: dict[str, Scalar]) -> set[str]:
    """Return the metrics with a value, having checked that others say why not."""
    for name, scalar in metrics.items():
        assert (scalar.value is None) == bool(scalar.reason), name
    json.dumps([scalar._asdict() for scalar in metrics.values()], allow_nan=False)
    return {name for name, scalar in metrics.items() if scalar.value is not None}


GEOMETRY = {"dict_cos", "duplicate_fraction", "c_dec", "mutual_coherence"}


def test_a_sound_sae_has_every_number(acts: Tensor, tokens: Tensor) -> None:
    metrics = found(acts, tokens).metrics
    # An encoder that is no affine map, as here, has no direction to compare.
    assert defined(metrics) == set(metrics)
    assert "enc_dec_cos" not in metrics


def test_a_latent_of_one_token_is_consistent_and_coherent(
    acts: Tensor, tokens: Tensor
) -> None:
    columns = found(acts, tokens).columns
    assert columns["consistency_token"][0] == 1
    assert columns["coherence"][0] > columns["coherence"][5]
    assert columns["monoscore_context"][0] > columns["monoscore_context"][5]


def test_labels_of_documents_add_how_consistent_latents_are_with_them(
    tokens: Tensor,
) -> None:
    # Every third document has no label, the others have the first or the second.
    labels = np.arange(NUM_SEQS, dtype=np.int16) % 3 - 1
    label = torch.from_numpy(labels)[:, None].expand(NUM_SEQS, CTX).reshape(-1)
    fires = label[:, None] == torch.tensor([0, 1, -1, 0, 0, 0])
    fires[:, 3:] |= label[:, None] == 1
    told = found(fires.float(), tokens, labels=labels)
    plain = found(fires.float(), tokens)
    added = {"consistency_document", "consistency_document_null"}
    assert told.metrics.keys() - plain.metrics.keys() == added
    assert told.columns.keys() - plain.columns.keys() == added
    share = told.columns["consistency_document"]
    whole = max(np.bincount(labels[labels >= 0])) / (labels >= 0).sum()
    np.testing.assert_allclose(share, [1, 1, np.nan, whole, whole, whole])
    value = told.metrics["consistency_document"]
    assert value.value == pytest.approx((2 + 3 * whole) / 5)
    assert value.n == 5
    null = told.metrics["consistency_document_null"]
    assert "labels dealt anew among documents" in null.method
    assert null.value is not None
    assert null.value < value.value
    for name, scalar in plain.metrics.items():
        assert told.metrics[name] == scalar, name


def test_without_any_label_of_a_document_there_is_a_reason(
    acts: Tensor, tokens: Tensor
) -> None:
    metrics = found(acts, tokens, labels=np.full(NUM_SEQS, -1)).metrics
    missing = {"consistency_document", "consistency_document_null"}
    assert set(metrics) - defined(metrics) == missing
    assert metrics["consistency_document"].reason == "no row has a document label"


def test_batches_leave_no_trace_without_labels(acts: Tensor, tokens: Tensor) -> None:
    whole, parts = (found(acts, tokens, size=size).metrics for size in (NUM_SEQS, 7))
    for name, scalar in whole.items():
        assert parts[name].value == pytest.approx(scalar.value, abs=1e-6), name


def test_a_dead_sae_has_no_numbers_but_reasons(acts: Tensor, tokens: Tensor) -> None:
    assert defined(found(torch.zeros_like(acts), tokens).metrics) == set()


def test_one_live_latent_has_all_but_what_needs_two(
    acts: Tensor, tokens: Tensor
) -> None:
    metrics = found(acts * (torch.arange(D_SAE) == 5), tokens).metrics
    assert set(metrics) - defined(metrics) == GEOMETRY
    assert (
        metrics["c_dec"].reason
        == "fewer than two latents that fired have a decoder row"
    )


def test_equal_activations_have_no_pairs_and_no_silence(
    acts: Tensor, tokens: Tensor
) -> None:
    metrics = found(torch.ones_like(acts), tokens).metrics
    missing = set(metrics) - defined(metrics)
    assert missing == {
        *(f"coherence_{name}" for name in ("delta_plus", "delta_minus", "solved")),
        *(f"monoscore_{name}" for name in ("x", "context")),
        *(f"monoscore_{name}_excess" for name in ("x", "context")),
    }


def test_two_documents_are_enough_for_values(acts: Tensor, tokens: Tensor) -> None:
    metrics = found(acts, tokens, num_documents=2).metrics
    assert defined(metrics) == set(metrics)
    for scalar in metrics.values():
        ends = [end for end in scalar[1:3] if end is not None]
        assert np.isfinite(ends).all()
