"""Tests of the sums of one pass, against sums over the dense code."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trilemma.metrics import passes
from trilemma.metrics.tally import NUM_BLOCKS, Tally, Wanted, sweep

NUM_ROWS, D_SAE, NUM_DOCUMENTS, NUM_LABELS = 500, 12, 30, 3
SCORE = np.arange(D_SAE) / 7
WANTED = Wanted(rate_rows=100, null_seed=3, score=SCORE)


def codes() -> Tensor:
    """Return codes of every sign and size; the last latent is silent."""
    generator = torch.Generator().manual_seed(0)
    acts = torch.randn(NUM_ROWS, D_SAE, generator=generator) * 10 ** torch.linspace(
        -3, 3, D_SAE
    )
    acts[torch.rand(NUM_ROWS, D_SAE, generator=generator) < 0.7] = 0
    acts[:, -1] = 0
    return acts


def tally(acts: Tensor, sizes: list[int]) -> Tally:
    coder = passes.Itself(torch.eye(D_SAE))
    baseline = passes.prepared(acts, num_documents=NUM_DOCUMENTS, num_labels=NUM_LABELS)
    parts = passes.batches(acts, sizes, num_documents=NUM_DOCUMENTS)
    return sweep(coder, baseline, baseline.rows(parts), wanted=WANTED)


def test_sums_are_those_of_the_dense_code() -> None:
    acts = codes()
    found, dense = tally(acts, [NUM_ROWS]), acts.double().abs().numpy()
    document = np.arange(NUM_ROWS) * NUM_DOCUMENTS // NUM_ROWS
    label = np.arange(NUM_ROWS) * 7 % NUM_LABELS
    fired = dense > 0
    for one in range(NUM_DOCUMENTS):
        here = document == one
        assert found.documents.num_tokens[one] == here.sum()
        assert found.documents.num_firings[one] == fired[here].sum()
        expected = (fired[here] * SCORE).sum()
        assert found.documents.score[one] == pytest.approx(expected, rel=1e-12)
    for block in range(NUM_BLOCKS):
        here = document % NUM_BLOCKS == block
        assert np.array_equal(found.latents.num_fired[block], fired[here].sum(0))
        for value in range(NUM_LABELS):
            expected = dense[here & (label == value)].sum(0)
            assert found.latents.mass[block, :, value] == pytest.approx(expected)
    assert found.latents.sum_acts == pytest.approx(dense.sum(0), rel=1e-12)
    assert np.array_equal(found.latents.max_acts, dense.max(0))
    assert np.array_equal(
        found.num_with_l0, np.bincount(fired.sum(1), minlength=D_SAE + 1)
    )


def test_permuted_labels_keep_each_latents_mass_and_each_labels_rows() -> None:
    ones = (codes() != 0).float()
    found = tally(ones, [NUM_ROWS]).latents
    for null in found.null_mass:
        assert np.array_equal(null.sum(1), found.sum_acts)
        assert not np.array_equal(null, found.mass.sum(0))


def test_batches_leave_no_trace_in_the_bits() -> None:
    acts = codes()
    whole = tally(acts, [NUM_ROWS])
    for num_batches in (7, 64):
        parts = tally(acts, passes.uneven(NUM_ROWS, num_batches))
        for one, other in (
            (whole.documents, parts.documents),
            (whole.latents, parts.latents),
        ):
            for left, right in zip(one, other, strict=True):
                assert np.array_equal(left, right)
        assert np.array_equal(whole.num_with_l0, parts.num_with_l0)
        assert whole.sample is not None and parts.sample is not None
        assert np.array_equal(whole.sample.codes.value, parts.sample.codes.value)
        assert whole.sample.probes.squared_deviation == (
            parts.sample.probes.squared_deviation
        )


def test_the_sample_has_the_first_rows() -> None:
    acts = codes()
    sample = tally(acts, [30, 170, 300]).sample
    assert sample is not None
    row, latent = acts[:100].nonzero(as_tuple=True)
    assert np.array_equal(sample.codes.row, row.numpy())
    assert np.array_equal(sample.codes.latent, latent.numpy())
    assert np.array_equal(sample.codes.value, acts[:100][row, latent].numpy())
    assert len(sample.probes.row) == len(sample.probes.error) == 100
