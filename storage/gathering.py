"""Gather batches from the rows of a few open chunks, in threads if so wished."""

import contextlib
import functools
import itertools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_MOST_WORKERS = 4
_READY = 2  # batches that wait for the consumer, beside those that workers are at
_NUMPY: dict[torch.dtype, type[np.generic]] = {
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.bfloat16: np.uint16,  # NumPy has no bfloat16; only its bits are moved
}


class _Plan(NamedTuple):
    rows: npt.NDArray[np.intp]
    """Numbers within their chunks, sorted by batch, chunk and number."""
    ends: npt.NDArray[np.int64]
    """Where in `rows` those of each batch and chunk begin, and a batch's last end."""


class Group:
    """Chunks that are open together, and how their unmasked rows fall to batches.

    The rows are permuted and dealt out to consecutive batches, of which the first may
    have got rows from an earlier group. Threads may share a group. It opens what is
    asked for, and closes it by being dropped.
    """

    def __init__(
        self,
        chunks: Sequence[int],
        *,
        batch_rows: int,
        taken: int,
        rows: Callable[[int], npt.NDArray[np.int64]],
        values: Callable[[int], npt.NDArray[Any]],
        permute: Callable[[int], npt.NDArray[np.integer]],
    ) -> None:
        """Prepare a group; nothing is read yet.

        Args:
            chunks: numbers of its chunks.
            batch_rows: rows of a batch.
            taken: rows of its first batch that come from earlier groups.
            rows: gives the numbers of a chunk's unmasked rows, ascending.
            values: gives all rows of a chunk, `[rows, d_in]`.
            permute: gives a permutation of so many rows.
        """
        self.chunks = chunks
        self._batch_rows = batch_rows
        self._taken = taken
        self._rows = rows
        self._values = values
        self._permute = permute
        self._planning = threading.Lock()
        self._opening = [threading.Lock() for _ in chunks]
        self._plan: _Plan | None = None
        self._opened: list[npt.NDArray[Any] | None] = [None] * len(chunks)

    def open(self, index: int) -> npt.NDArray[Any]:
        """Return the values of the chunk at `index`."""
        values = self._opened[index]
        if values is None:
            with self._opening[index]:
                values = self._opened[index]
                if values is None:
                    values = self._opened[index] = self._values(self.chunks[index])
        return values

    def plan(self) -> _Plan:
        """Return which rows each batch gets."""
        with self._planning:
            if self._plan is None:
                self._plan = self._planned()
            return self._plan

    def rows(self, batch: int) -> list[npt.NDArray[np.intp]]:
        """Return the rows of each chunk that a batch of this group gets."""
        rows, ends = self.plan()
        return [rows[i:j] for i, j in itertools.pairwise(ends[batch].tolist())]

    def copy(self, batch: int, target: npt.NDArray[Any]) -> None:
        """Copy to `target` what a batch of this group gets from it."""
        first = 0
        for index, rows in enumerate(self.rows(batch)):
            if len(rows):
                out = target[first : first + len(rows)]
                # Only "clip" writes to `out` directly; all rows are in the chunk.
                self.open(index).take(rows, axis=0, out=out, mode="clip")
                first += len(rows)

    def _planned(self) -> _Plan:
        """Deal the rows out to batches.

        They are numbered chunk by chunk. A few steps over the whole group are quicker
        than a sort for each batch, and let other threads run meanwhile.
        """
        rows = [self._rows(chunk) for chunk in self.chunks]
        starts = np.cumsum([0, *map(len, rows)])
        total = int(starts[-1])
        dealt = (np.arange(total) + self._taken) // self._batch_rows
        num_batches = int(dealt[-1]) + 1
        # Small numbers are sorted by counting.
        batch = np.empty(total, np.min_scalar_type(num_batches))
        batch[self._permute(total)] = dealt
        order = np.argsort(batch, kind="stable")
        keys = dealt * total + order
        bounds = np.arange(num_batches)[:, None] * total + starts
        numbers = np.concatenate(rows).astype(np.intp, copy=False)
        return _Plan(numbers[order], np.searchsorted(keys, bounds))


class Part(NamedTuple):
    """What one group gives to a batch."""

    group: Group
    batch: int
    """The batch's number in the group."""
    size: int
    """Rows that the group gives."""


class Gatherer:
    """Makes batches in memory that is used again once nothing refers to a batch.

    Memory that was used before is several times as fast as fresh one, whose pages the
    kernel has to clear first.
    """

    def __init__(
        self, batch_rows: int, d_in: int, dtype: torch.dtype, *, pin: bool
    ) -> None:
        """Prepare batches of at most `batch_rows`, in page-locked memory if `pin`."""
        self._shape = (batch_rows, d_in)
        self._dtype = dtype
        self._pin = pin
        self._free: deque[npt.NDArray[Any]] = deque(maxlen=_MOST_WORKERS + _READY)

    def batch(self, parts: Sequence[Part]) -> Tensor:
        """Return the rows of these parts, `[batch, d_in]`."""
        x = self._memory(sum(part.size for part in parts))
        target = (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()
        first = 0
        for group, batch, size in parts:
            group.copy(batch, target[first : first + size])
            first += size
        return x

    def _memory(self, rows: int) -> Tensor:
        if self._pin:
            # Torch does the same, and waits for copies to the GPU that are under way.
            shape = (rows, self._shape[1])
            return torch.empty(shape, dtype=self._dtype, pin_memory=True)
        try:
            whole = self._free.pop()  # the last one freed is in the cache
        except IndexError:
            whole = np.empty(self._shape, _NUMPY[self._dtype])
        # The batch, and all that shares its memory, refers to this view, and nothing
        # but the view to the memory: when it goes, nobody sees what is written next.
        view = whole[:rows]
        weakref.finalize(view, self._free.append, whole).atexit = False
        return torch.from_numpy(view).view(self._dtype)


class Task(NamedTuple):
    """A batch to make, and what its group's successor should open meanwhile."""

    parts: Sequence[Part]
    due: Sequence[Callable[[], object]]


def read_ahead(
    gatherer: Gatherer, tasks: Iterable[Task]
) -> Generator[Tensor, None, None]:
    """Yield the batches of the tasks in order, made by threads a few at a time.

    Closing the generator ends the threads; each finishes at most what it is at.
    """
    jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
    stopped = threading.Event()
    threads = [
        threading.Thread(
            target=_work, args=(jobs, stopped), name="batches", daemon=True
        )
        for _ in range(num_workers())
    ]
    for thread in threads:
        thread.start()
    try:
        yield from _in_order(jobs, gatherer, tasks, len(threads) + _READY)
    finally:
        stopped.set()
        for _ in threads:
            jobs.put(None)
        for thread in threads:
            thread.join()


def num_workers() -> int:
    """Return how many threads make batches."""
    return min(_MOST_WORKERS, os.cpu_count() or 1)


def _in_order(
    jobs: "SimpleQueue[Callable[[], object] | None]",
    gatherer: Gatherer,
    tasks: Iterable[Task],
    depth: int,
) -> Iterator[Tensor]:
    ahead: deque[SimpleQueue[Tensor | BaseException]] = deque()
    for parts, due in tasks:
        for call in due:
            jobs.put(call)
        made: SimpleQueue[Tensor | BaseException] = SimpleQueue()
        jobs.put(functools.partial(_make, gatherer, parts, made))
        ahead.append(made)
        if len(ahead) == depth:
            yield _got(ahead.popleft())
    while ahead:
        yield _got(ahead.popleft())


def _got(made: "SimpleQueue[Tensor | BaseException]") -> Tensor:
    found = made.get()
    if isinstance(found, BaseException):
        raise found
    return found


def _make(
    gatherer: Gatherer,
    parts: Sequence[Part],
    made: "SimpleQueue[Tensor | BaseException]",
) -> None:
    try:
        made.put(gatherer.batch(parts))
    except BaseException as error:
        made.put(error)


def _work(
    jobs: "SimpleQueue[Callable[[], object] | None]", stopped: threading.Event
) -> None:
    """Do one job after the other, and none after a stop."""
    while (job := jobs.get()) is not None:
        # What fails to open ahead fails again, and is told, where it is needed.
        with contextlib.suppress(Exception):
            if not stopped.is_set():
                job()
