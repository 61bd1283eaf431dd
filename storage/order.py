"""The order of training: every unmasked row once per epoch, from three integers."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from storage.store import Store


class Position(NamedTuple):
    """Where a reader stands; all that must be kept to continue."""

    seed: int
    epoch: int
    cursor: int
    """Rows of the epoch that have been consumed."""


class _Group(NamedTuple):
    epoch: int
    place: int


class TrainingOrder:
    """Shuffled batches of one hook, with a few chunks in memory at a time.

    Chunks are permuted by (seed, epoch); `open_chunks` of them form a group, whose
    rows are permuted by (seed, epoch, group). However large the store, memory holds
    at most three groups: the one in use, the next, and the one that is being read.
    """

    def __init__(
        self, store: Store, hook: str, *, seed: int, batch_tokens: int, open_chunks: int
    ) -> None:
        """Prepare the order; nothing is read yet."""
        self._store = store
        self._hook = hook
        self._seed = seed
        self._batch = batch_tokens
        self._open = open_chunks
        self._rows = store.unmasked_rows()
        self.rows_per_epoch = int(self._rows.sum())

    @property
    def steps_per_epoch(self) -> int:
        """Return the batches of an epoch; the last one may be smaller."""
        return -(-self.rows_per_epoch // self._batch)

    def position(self, step: int) -> Position:
        """Return where the reader stands before a step."""
        epoch, within = divmod(step, self.steps_per_epoch)
        return Position(self._seed, epoch, within * self._batch)

    def batches(self, start: int, stop: int, *, prefetch: bool) -> Iterator[Tensor]:
        """Yield the float32 batches `[batch, d_in]` of steps `start` to `stop`.

        With `prefetch` the next group is read by a thread while this one is used; the
        order is the same.
        """
        if start >= stop:
            return
        groups = self._groups(self.position(start), stop)
        with ThreadPoolExecutor(1) as pool:
            loaded = self._loaded(groups, pool if prefetch else None)
            rows = self._batches_of(loaded, self.position(start))
            for _ in range(start, stop):
                yield next(rows)

    def _loaded(
        self, groups: Iterator[_Group], pool: ThreadPoolExecutor | None
    ) -> Iterator[tuple[_Group, Tensor]]:
        """Yield groups with their rows, the next one read ahead if there is a pool."""
        if pool is None:
            for group in groups:
                yield group, self._load(group)
            return
        ahead: tuple[_Group, Future[Tensor]] | None = None
        for group in groups:
            following = (group, pool.submit(self._load, group))
            if ahead is not None:
                yield ahead[0], ahead[1].result()
            ahead = following
        if ahead is not None:
            yield ahead[0], ahead[1].result()

    def _groups(self, position: Position, stop: int) -> Iterator[_Group]:
        epoch = position.epoch
        first = self._group_at(position)
        last_epoch = (stop - 1) // self.steps_per_epoch
        while epoch <= last_epoch:
            for place in range(first, -(-len(self._rows) // self._open)):
                yield _Group(epoch, place)
            epoch, first = epoch + 1, 0

    def _batches_of(
        self, loaded: Iterator[tuple[_Group, Tensor]], position: Position
    ) -> Iterator[Tensor]:
        before = self._group_rows(position.epoch)[: self._group_at(position)].sum()
        skip = position.cursor - int(before)
        held: list[Tensor] = []
        held_rows = 0
        epoch = position.epoch
        for group, rows in loaded:
            if group.epoch != epoch:
                if held_rows:
                    yield torch.cat(held).float()
                held, held_rows, epoch = [], 0, group.epoch
            order = self._permutation("rows", group.epoch, group.place, len(rows))
            at, skip = skip, 0
            while at < len(rows):
                take = order[at : at + self._batch - held_rows]
                held.append(rows[torch.from_numpy(take)])
                held_rows += len(take)
                at += len(take)
                if held_rows == self._batch:
                    yield (held[0] if len(held) == 1 else torch.cat(held)).float()
                    held, held_rows = [], 0
        if held_rows:
            yield torch.cat(held).float()

    def _load(self, group: _Group) -> Tensor:
        """Return all unmasked rows of a group of chunks, in stored order."""
        chunks = self._chunks(group.epoch)
        members = chunks[group.place * self._open : (group.place + 1) * self._open]
        return torch.cat([self._store.chunk(self._hook, int(i)) for i in members])

    def _group_at(self, position: Position) -> int:
        ends = np.cumsum(self._group_rows(position.epoch))
        return int(np.searchsorted(ends, position.cursor, side="right"))

    def _group_rows(self, epoch: int) -> npt.NDArray[np.int64]:
        rows = self._rows[self._chunks(epoch)]
        return np.add.reduceat(rows, np.arange(0, len(rows), self._open))

    def _chunks(self, epoch: int) -> npt.NDArray[np.int64]:
        return self._permutation("chunks", epoch, 0, len(self._rows))

    def _permutation(
        self, purpose: str, epoch: int, group: int, size: int
    ) -> npt.NDArray[np.int64]:
        """Return a permutation that depends on its arguments and the seed alone."""
        text = f"trilemma/order/{purpose}/{self._seed}/{epoch}/{group}"
        key = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], np.uint64)
        return np.random.Generator(np.random.Philox(key=key)).permutation(size)
