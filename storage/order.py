"""The order of training: every unmasked row once per epoch, from three integers."""

import bisect
import contextlib
import functools
import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from storage import gathering
from storage.gathering import Gatherer, Group, Part, Task
from storage.store import Store


class Position(NamedTuple):
    """Where a reader stands; all that must be kept to continue."""

    seed: int
    epoch: int
    cursor: int
    """Rows of the epoch that have been consumed."""


class Picked(NamedTuple):
    """Rows of one chunk that a batch holds."""

    chunk: int
    rows: npt.NDArray[np.intp]
    """Their numbers within the chunk, ascending."""


class _Span(NamedTuple):
    """Consecutive rows of one group's permutation."""

    epoch: int
    place: int
    start: int
    stop: int


class _Layout(NamedTuple):
    """How an epoch is cut into groups."""

    chunks: npt.NDArray[np.int64]
    """Every chunk, permuted."""
    starts: list[int]
    """Rows of the epoch before each group, and last all of them."""


class TrainingOrder:
    """Shuffled batches of one hook, with a few chunks open at a time.

    Chunks are permuted by (seed, epoch); `open_chunks` of them form a group, whose
    rows are permuted by (seed, epoch, group) and cut into batches, which may begin in
    one group and end in another. A batch is a set: its rows lie in the order of their
    groups, and within a group in that of its chunks and their rows.

    However large the store, open are at most the chunks of the group in use, of the
    next, and of the last one until its last batch is made.
    """

    def __init__(
        self,
        store: Store,
        hook: str,
        *,
        seed: int,
        batch_tokens: int,
        open_chunks: int,
        check: bool = True,
    ) -> None:
        """Prepare the order; nothing is read yet.

        Args:
            store: what is read.
            hook: whose activations.
            seed: of all permutations.
            batch_tokens: rows of a batch; an epoch's last one may have fewer.
            open_chunks: chunks of a group.
            check: compare the checksum of each chunk when this order first opens it;
                otherwise what has changed on the disk goes into the batches.
        """
        self._store = store
        self._hook = hook
        self._seed = seed
        self.batch_tokens = batch_tokens
        self._open = open_chunks
        self._rows = store.unmasked_rows()
        self._is_unchecked = np.full(len(self._rows), check)
        self._layout = functools.lru_cache(2)(self._layout_of)
        self.rows_per_epoch = int(self._rows.sum())

    @property
    def steps_per_epoch(self) -> int:
        """Return the batches of an epoch; the last one may be smaller."""
        return -(-self.rows_per_epoch // self.batch_tokens)

    def position(self, step: int) -> Position:
        """Return where the reader stands before a step."""
        epoch, within = divmod(step, self.steps_per_epoch)
        return Position(self._seed, epoch, within * self.batch_tokens)

    def batches(
        self, start: int, stop: int, *, prefetch: bool, pin: bool = False
    ) -> Generator[Tensor, None, None]:
        """Yield the batches `[batch, d_in]` of steps `start` to `stop`.

        They have the dtype of `Store.dtype` and may be kept: the memory of a batch is
        used again only when nothing refers to it any more.

        Args:
            start: the first step.
            stop: the step after the last.
            prefetch: make the next ones in threads, which end with the generator; the
                batches are the same.
            pin: make them in page-locked memory, for copies to a GPU that nobody has
                to wait for.
        """
        if start >= stop:
            return
        dtype = self._store.dtype(self._hook)
        d_in = self._store.d_in(self._hook)
        gatherer = Gatherer(self.batch_tokens, d_in, dtype, pin=pin)
        if prefetch:
            tasks = self._tasks(start, stop, ahead=True)
            with contextlib.closing(gathering.read_ahead(gatherer, tasks)) as batches:
                yield from batches
        else:
            for task in self._tasks(start, stop, ahead=False):
                yield gatherer.batch(task.parts)

    def picked(self, step: int) -> list[Picked]:
        """Return which rows the batch of a step holds; reads no activations."""
        return [
            Picked(chunk, rows)
            for span in self._spans(step)
            for group, batch, _ in [self._part(span, self._group(*span[:2]))]
            for chunk, rows in zip(group.chunks, group.rows(batch), strict=True)
            if len(rows)
        ]

    def chunks(self, epoch: int) -> list[int]:
        """Return all chunks in the order in which an epoch comes to them."""
        order: list[int] = self._layout(epoch).chunks.tolist()
        return order

    def _tasks(self, start: int, stop: int, *, ahead: bool) -> Iterator[Task]:
        """Yield the steps' tasks, each holding on to the groups that it needs.

        With `ahead`, batches that take a share of a group's rows open that share of
        the next group's chunks, so that no batch has to wait for a whole group.
        """
        groups: dict[tuple[int, int], Group] = {}

        def group(key: tuple[int, int]) -> Group:
            if key not in groups:
                groups[key] = self._group(*key)
            return groups[key]

        last = self._spans(stop - 1)[-1][:2]
        for step in range(start, stop):
            spans = self._spans(step)
            for key in [key for key in groups if key < spans[0][:2]]:
                del groups[key]
            due: list[Callable[[], object]] = []
            if ahead and step == start:
                due += _opening(group(spans[0][:2]), 0.0, 1.0)
            for span in spans if ahead else ():
                following = self._following(span)
                if following <= last:
                    size = self._size(span.epoch, span.place)
                    part = (span.start / size, span.stop / size)
                    due += _opening(group(following), *part)
            yield Task([self._part(span, group(span[:2])) for span in spans], due)

    def _spans(self, step: int) -> list[_Span]:
        """Return what each group gives to the batch of a step."""
        epoch, within = divmod(step, self.steps_per_epoch)
        starts = self._layout(epoch).starts
        first = within * self.batch_tokens
        stop = min(first + self.batch_tokens, self.rows_per_epoch)
        place = bisect.bisect_right(starts, first) - 1
        spans = []
        while first < stop:
            last = min(stop, starts[place + 1])
            if first < last:
                before = starts[place]
                spans.append(_Span(epoch, place, first - before, last - before))
            first, place = last, place + 1
        return spans

    def _part(self, span: _Span, group: Group) -> Part:
        batch = (self._taken(span.epoch, span.place) + span.start) // self.batch_tokens
        return Part(group, batch, span.stop - span.start)

    def _following(self, span: _Span) -> tuple[int, int]:
        """Return epoch and place of the next group that has rows."""
        epoch, place = span.epoch, span.place + 1
        while True:
            for later in range(place, len(self._layout(epoch).starts) - 1):
                if self._size(epoch, later):
                    return epoch, later
            epoch, place = epoch + 1, 0

    def _size(self, epoch: int, place: int) -> int:
        starts = self._layout(epoch).starts
        return starts[place + 1] - starts[place]

    def _taken(self, epoch: int, place: int) -> int:
        """Return how many rows of a group's first batch earlier groups give."""
        return self._layout(epoch).starts[place] % self.batch_tokens

    def _group(self, epoch: int, place: int) -> Group:
        chunks = self._layout(epoch).chunks
        members = chunks[place * self._open : (place + 1) * self._open].tolist()
        return Group(
            [chunk for chunk in members if self._rows[chunk]],
            batch_rows=self.batch_tokens,
            taken=self._taken(epoch, place),
            rows=self._store.unmasked,
            values=self._values,
            permute=functools.partial(self._permutation, "rows", epoch, place),
        )

    def _values(self, chunk: int) -> npt.NDArray[Any]:
        check = bool(self._is_unchecked[chunk])
        values = self._store.open_chunk(self._hook, chunk, check=check)
        self._is_unchecked[chunk] = False
        return values

    def _layout_of(self, epoch: int) -> _Layout:
        chunks = self._permutation("chunks", epoch, 0, len(self._rows))
        firsts = np.arange(0, len(chunks), self._open)
        sizes = np.add.reduceat(self._rows[chunks], firsts)
        return _Layout(chunks, np.cumsum([0, *sizes]).tolist())

    def _permutation(
        self, purpose: str, epoch: int, group: int, size: int
    ) -> npt.NDArray[np.int64]:
        """Return a permutation that depends on its arguments and the seed alone."""
        text = f"trilemma/order/{purpose}/{self._seed}/{epoch}/{group}"
        key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
        # Torch's is more than twice as fast as NumPy's.
        generator = torch.Generator().manual_seed(key)
        return torch.randperm(size, generator=generator).numpy()


def together(
    orders: Mapping[str, TrainingOrder],
    start: int,
    stop: int,
    *,
    prefetch: bool,
    pin: bool = False,
) -> Generator[dict[str, Tensor], None, None]:
    """Yield what `TrainingOrder.batches` does, of several hooks of one store at once.

    Orders of equal settings give the same rows in the same places, whatever their hook:
    these follow from the seed and from the mask, which all hooks share.
    """
    with contextlib.ExitStack() as stack:
        readers = {
            hook: stack.enter_context(
                contextlib.closing(
                    order.batches(start, stop, prefetch=prefetch, pin=pin)
                )
            )
            for hook, order in orders.items()
        }
        for _ in range(start, stop):
            yield {hook: next(reader) for hook, reader in readers.items()}


def _opening(group: Group, first: float, last: float) -> list[Callable[[], object]]:
    """Return calls that open these fractions of a group's chunks, and plan at last."""
    count = len(group.chunks)
    chunks = range(int(first * count), int(last * count))
    calls: list[Callable[[], object]] = [
        functools.partial(group.open, index) for index in chunks
    ]
    return [*calls, group.plan] if last >= 1 else calls
