"""How well batches mix documents, against batches drawn from all rows at random."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from storage.order import TrainingOrder
from storage.store import Store

_MERGED_CHUNKS = 256


class Mixing(NamedTuple):
    """How many documents batches span."""

    documents_per_batch: float
    """Mean number of distinct documents in a full batch."""
    perfect: float
    """What it would be if batches were drawn from all counted rows at random."""
    ratio: float
    """The first over the second."""
    batches_sampled: int
    rows_counted: int
    """Unmasked rows whose documents `perfect` knows; all of them in a small store."""


def measure(
    store: Store, order: TrainingOrder, *, batches: int, most_rows: int
) -> Mixing:
    """Return how well the batches of the first epoch mix documents.

    Reads documents, no activations: those of the chunks that the epoch comes to first,
    until they hold `most_rows` unmasked rows, and of as many as `batches` full batches
    among them, evenly spread. Memory holds a number for each of these documents.
    """
    chunks, rows = _counted(store, order, most_rows)
    size = min(order.batch_tokens, rows)
    num_full = rows // size
    count = min(batches, num_full)
    steps = [index * num_full // count for index in range(count)]
    found = [_num_documents(store, order, step) for step in steps]
    mean = sum(found) / count
    perfect = expected_documents(_rows_of_documents(store, chunks), size)
    return Mixing(mean, perfect, mean / perfect, count, rows)


def expected_documents(rows: npt.NDArray[np.int64], batch_rows: int) -> float:
    """Return how many documents a random batch, without repeats, spans on average.

    That is the sum over documents of 1 - C(N - n, B) / C(N, B), exactly: Hurlbert
    (1971), the expected number of species in a sample of B out of N individuals.

    Args:
        rows: n, the number of rows of each document; N is their sum.
        batch_rows: B, at most N.
    """
    total = int(rows.sum())
    sizes, counts = np.unique(rows, return_counts=True)
    chances = [_chance(int(size), total, batch_rows) for size in sizes]
    return float(counts @ np.array(chances))


def _chance(size: int, total: int, batch_rows: int) -> float:
    """Return the chance that a document of so many rows is in a batch."""
    if total - size < batch_rows:
        return 1.0
    return -math.expm1(
        _log_choose(total - size, batch_rows) - _log_choose(total, batch_rows)
    )


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


class _Counted(NamedTuple):
    chunks: list[int]
    rows: int


def _counted(store: Store, order: TrainingOrder, most_rows: int) -> _Counted:
    """Return the first chunks of an epoch that together have that many rows."""
    chunks = order.chunks(0)
    ends = np.cumsum(store.unmasked_rows()[chunks])
    count = min(int(np.searchsorted(ends, most_rows)) + 1, len(chunks))
    return _Counted(chunks[:count], int(ends[count - 1]))


def _num_documents(store: Store, order: TrainingOrder, step: int) -> int:
    parts = [store.documents(chunk)[rows] for chunk, rows in order.picked(step)]
    return len(np.unique(np.concatenate(parts)))


def _rows_of_documents(store: Store, chunks: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return how many unmasked rows each document has in these chunks."""
    documents = np.zeros(0, np.int64)
    rows = np.zeros(0, np.int64)
    for first in range(0, len(chunks), _MERGED_CHUNKS):
        some = _documents(store, chunks[first : first + _MERGED_CHUNKS])
        found, counts = np.unique(some, return_counts=True)
        documents, where = np.unique(
            np.concatenate([documents, found]), return_inverse=True
        )
        merged = np.zeros(len(documents), np.int64)
        np.add.at(merged, where, np.concatenate([rows, counts]))
        rows = merged
    return rows


def _documents(store: Store, chunks: Iterable[int]) -> npt.NDArray[np.int64]:
    """Return the document of each unmasked row of these chunks."""
    parts = [store.documents(chunk)[store.unmasked(chunk)] for chunk in chunks]
    return np.concatenate(parts)
