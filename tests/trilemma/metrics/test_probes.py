"""Tests of an SAE's probes beside those of activations and of chance."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trilemma.metrics.given import Given
from trilemma.metrics.baseline import Rows
from trilemma.metrics.dense_probes import DenseProbes, DenseRows
from trilemma.metrics.probe_tasks import TASKS, Labeller
from trilemma.metrics.probes import CodeRows, Probed
from trilemma.metrics.streaming import stream
from trilemma.sequences import Sequences

TEXTS = ["the", " 42", "ing", " Paris", "x", "y", "z"]
NUM_SEQS, CTX, PROBED = 80, 30, 900


class Both(NamedTuple):
    dense: DenseProbes
    code: Probed


def cut(whole: Sequences, size: int) -> Iterator[Sequences]:
    for start in range(0, NUM_SEQS, size):
        yield Sequences(*(part[start : start + size] for part in whole))


def probed(
    acts: Tensor,
    tokens: Tensor,
    *,
    rows: int = PROBED,
    size: int = 80,
    documents: int = 80,
) -> Both:
    document = torch.arange(NUM_SEQS)[:, None].expand(NUM_SEQS, CTX) % documents
    mask = torch.zeros(NUM_SEQS, CTX, dtype=torch.uint8)
    mask[:, 0] = 2
    whole = Sequences(tokens, document, mask, acts.reshape(NUM_SEQS, CTX, -1))
    labeller = Labeller(TEXTS)
    kept = DenseRows(labeller, rows, seed=0)
    for batch in cut(whole, size):
        kept.add(batch)
    dense = kept.probes(torch.arange(documents))
    code = CodeRows(acts.shape[1], labeller, dense, seed=0)
    stream(Given(acts.shape[1]), counted(cut(whole, size)), [code])
    return Both(dense, code.probed())


def counted(batches: Iterator[Sequences]) -> Iterator[Rows]:
    start = 0
    for batch in batches:
        kept = (batch.mask.reshape(-1) == 0).nonzero()[:, 0]
        yield Rows(
            batch.x.flatten(0, 1)[kept],
            batch.document.reshape(-1)[kept].numpy(),
            start + kept.numpy(),
            batch,
            kept,
        )
        start += batch.mask.numel()


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, len(TEXTS), (NUM_SEQS, CTX), generator=generator)


@pytest.fixture(scope="module")
def acts(tokens: Tensor) -> Tensor:
    """Return a latent for numbers, two noisy ones for capitals, and noise."""
    generator = torch.Generator().manual_seed(1)
    flat = tokens.reshape(-1)
    strength = torch.rand(len(flat), 6, generator=generator)
    fires = torch.rand(len(flat), 6, generator=generator) < 0.3
    fires[:, 0] = flat == 1
    fires[:, 1:3] &= (flat == 3)[:, None]
    return strength * fires


@pytest.fixture(scope="module")
def found(acts: Tensor, tokens: Tensor) -> Both:
    return probed(acts, tokens)


def test_latents_tell_what_they_fire_for_and_chance_does_not(found: Both) -> None:
    metrics = found.code.metrics
    assert metrics["probe_digits"].value == pytest.approx(1)
    assert 0.6 < metrics["probe_capital"].value < 0.9
    assert metrics["probe_shuffled"].value == pytest.approx(0.5, abs=0.06)
    assert metrics["probe_digits"].n == PROBED


def test_all_dimensions_are_probed_on_the_same_rows(
    acts: Tensor, tokens: Tensor
) -> None:
    found = probed(acts, tokens)
    mine = found.code.details
    # With six latents, sixteen are all of them.
    for index, task in enumerate(TASKS):
        if f"probe_k16_{task}" in mine:
            assert mine[f"probe_dense_{task}"] == float(found.dense.auroc[index])
            assert mine[f"probe_k16_{task}"] == pytest.approx(
                mine[f"probe_dense_{task}"], abs=1e-6
            )


def test_batches_leave_no_trace_in_probes(acts: Tensor, tokens: Tensor) -> None:
    whole, parts = (probed(acts, tokens, size=size, rows=300) for size in (80, 7))
    assert parts.code.metrics == whole.code.metrics


def test_tasks_whose_classes_are_missing_are_undefined_and_left_out(
    found: Both,
) -> None:
    metrics = found.code.metrics
    assert metrics["probe_in_brackets"].value is None
    assert metrics["probe_in_brackets"].reason is not None
    assert metrics["probe"].value is not None
    assert "mean of 4 tasks" in metrics["probe"].method


def test_two_documents_leave_every_probe_undefined(
    acts: Tensor, tokens: Tensor
) -> None:
    metrics = probed(acts, tokens, documents=2).code.metrics
    assert {scalar.value for scalar in metrics.values()} == {None}
    assert all(scalar.reason for scalar in metrics.values())


def test_a_dead_sae_tells_nothing(tokens: Tensor) -> None:
    metrics = probed(torch.zeros(NUM_SEQS * CTX, 6), tokens).code.metrics
    assert metrics["probe"].value == pytest.approx(0.5)
    assert np.isfinite(metrics["probe_dense"].value)
