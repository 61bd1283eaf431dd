"""How well batches mix documents, on stores whose answer is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import mixing
from storage.order import TrainingOrder

ALL = 10**9


class FakeStore:
    """Chunks of given documents; activations are not needed."""

    def __init__(self, documents, masks=None):
        self._documents = [np.array(chunk, np.int64) for chunk in documents]
        self._masks = masks or [[True] * len(chunk) for chunk in documents]
        self.read = set()

    def unmasked_rows(self):
        return np.array([sum(mask) for mask in self._masks], np.int64)

    def unmasked(self, chunk):
        return np.flatnonzero(self._masks[chunk])

    def documents(self, chunk):
        self.read.add(chunk)
        return self._documents[chunk]


def measure(store, batch, open_chunks, batches=100, most_rows=ALL, seed=0):
    order = TrainingOrder(
        store, "h", seed=seed, batch_tokens=batch, open_chunks=open_chunks
    )
    return mixing.measure(store, order, batches=batches, most_rows=most_rows)


def test_a_store_of_one_chunk_is_shuffled_perfectly():
    documents = np.repeat(np.arange(1000), 8)
    found = measure(FakeStore([documents]), batch=200, open_chunks=1)
    assert found.ratio == pytest.approx(1, abs=0.01)
    assert found.batches_sampled == 40


def test_where_each_chunk_is_a_document_a_batch_spans_the_open_chunks_at_most():
    store = FakeStore([[chunk] * 64 for chunk in range(40)])
    found = measure(store, batch=32, open_chunks=4)
    assert 3.5 < found.documents_per_batch <= 4
    assert found.perfect == pytest.approx(40 * (1 - (39 / 40) ** 32), abs=0.3)
    assert found.ratio < 0.2


def test_more_open_chunks_mix_better():
    store = FakeStore([[chunk] * 64 for chunk in range(40)])
    ratios = [measure(store, batch=32, open_chunks=k).ratio for k in (1, 4, 16, 40)]
    assert ratios == sorted(ratios)
    assert ratios[-1] == pytest.approx(1, abs=0.03)


def test_masked_rows_do_not_count():
    documents = [[0] * 8 + [1] * 8, [2] * 8 + [3] * 8]
    mask = [True] * 8 + [False] * 8
    found = measure(FakeStore(documents, [mask, mask]), batch=16, open_chunks=2)
    assert (found.documents_per_batch, found.perfect) == (2, 2)


def test_a_document_in_several_chunks_counts_once():
    found = measure(FakeStore([[5] * 8] * 600), batch=32, open_chunks=4)
    assert found.perfect == pytest.approx(1)
    assert found.documents_per_batch == 1


def test_a_large_store_is_judged_by_the_chunks_that_come_first():
    store = FakeStore([[chunk] * 64 for chunk in range(1000)])
    found = measure(store, batch=32, open_chunks=4, batches=8, most_rows=64 * 20)
    assert len(store.read) == 20
    assert found.rows_counted == 64 * 20
    assert found.batches_sampled == 8


def test_a_store_smaller_than_a_batch_is_one_batch():
    found = measure(FakeStore([[0, 1, 1, 2]]), batch=100, open_chunks=4)
    assert found == (3, 3, 1, 1, 4)


def test_the_figure_repeats_itself():
    store = FakeStore([[chunk, chunk + 1] * 32 for chunk in range(40)])
    first, second = (measure(store, batch=32, open_chunks=4) for _ in range(2))
    assert first == second


@settings(deadline=None)
@given(
    rows=st.lists(st.integers(1, 30), min_size=1, max_size=30),
    share=st.floats(0, 1),
)
def test_expected_documents_are_those_of_the_hypergeometric_distribution(rows, share):
    total = sum(rows)
    batch = max(1, round(share * total))
    exact = sum(1 - math.comb(total - n, batch) / math.comb(total, batch) for n in rows)
    found = mixing.expected_documents(np.array(rows, np.int64), batch)
    assert found == pytest.approx(exact, rel=1e-9)


def test_expected_documents_agree_with_drawing_at_random():
    rows = np.array([1, 2, 3, 50, 200], np.int64)
    documents = np.repeat(np.arange(len(rows)), rows)
    rng = np.random.default_rng(0)
    drawn = [len(set(rng.choice(documents, 20, replace=False))) for _ in range(4000)]
    assert mixing.expected_documents(rows, 20) == pytest.approx(
        np.mean(drawn), rel=0.02
    )
