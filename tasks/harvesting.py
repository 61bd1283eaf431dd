"""The engine of a harvest: forward passes that never wait for the disk."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from storage.store_writer import ChunkData, HookChunk, StoreWriter
from tasks.interruption import Interrupted
from trilemma import harvest as library
from trilemma import statistics
from trilemma.config.sources import StoredDtype

_WRITERS = 2
_QUEUED_PARTS = 4
_QUEUED_BYTES = 256 << 20

Tokens = npt.NDArray[np.int32]
Documents = npt.NDArray[np.int64]
Mask = npt.NDArray[np.uint8]
Batches = Iterator[Mapping[str, Tensor]]


class Source(NamedTuple):
    """Where the rows of one split and their activations come from."""

    num_seqs: int
    tokens: Callable[[slice], Tokens]
    """Sequences to `[seqs, ctx]`."""
    document: Callable[[slice], Documents]
    mask: Callable[[Tokens], Mask]
    """`[seqs, ctx]` to the same shape: 0 where a row counts as far as is known."""
    batches: Callable[[slice], Batches]
    """Sequences to their activations by hook, `[rows, d_in]`, some rows at a time."""


class Settings(NamedTuple):
    """What fixes the bytes of a harvest besides its source and the store's layout."""

    batch_seqs: int
    high_norm_ratio: float


class Progress(NamedTuple):
    """How far one process has come."""

    rows: int
    """Written since the start of this process."""
    queued: int
    """Parts that wait for the disk."""


def groups(writer: StoreWriter, settings: Settings) -> list[range]:
    """Return the groups of parts, a pure function of the layout and the batch.

    A group holds at least one batch, and its batches begin at its first sequence, so
    which process harvests it, and what is missing of it, changes no bit.
    """
    part_seqs = max(1, _seqs(writer.part_sequences(0)))
    size = -(-settings.batch_seqs // part_seqs)
    return [
        range(first, min(first + size, writer.num_parts))
        for first in range(0, writer.num_parts, size)
    ]


def share(
    writer: StoreWriter, settings: Settings, worker: int, num_workers: int
) -> list[range]:
    """Return the groups with missing parts that one of so many workers has to do."""
    missing = set(writer.missing())
    mine = groups(writer, settings)[worker::num_workers]
    return [group for group in mine if missing.intersection(group)]


def write_groups(
    writer: StoreWriter,
    source: Source,
    settings: Settings,
    todo: Iterable[range],
    *,
    split: str,
    asked: Callable[[], bool],
    report: Callable[[Progress], None],
) -> None:
    """Harvest groups of parts; the disk works while the next batches are computed.

    Raises:
        Interrupted: `asked` says so; parts already queued are still committed.
        trilemma.harvest.RowError: an activation cannot be stored; names its row.
    """
    missing = set(writer.missing())
    done = 0
    with _Writing(writer) as writing:
        for group in todo:
            first = writer.part_sequences(group[0]).start
            span = slice(first, writer.part_sequences(group[-1]).stop)
            rows = _Rows(
                source.batches(span),
                cast(StoredDtype, writer.layout.dtype),
                split,
                writer.rows(writer.chunks_of(group[0])[0]).start,
            )
            for part in group:
                if asked():
                    raise Interrupted("asked to stop while harvesting")
                chunks = [
                    _chunk(writer, source, settings, rows, chunk, split)
                    for chunk in writer.chunks_of(part)
                ]
                if part in missing:
                    writing.submit(part, chunks)
                    done += sum(chunk.tokens.size for chunk in chunks)
                    report(Progress(done, writing.queued))


class _Writing:
    """Threads that write parts, and a queue in front of them that is never long."""

    def __init__(self, writer: StoreWriter) -> None:
        self._writer = writer
        seqs = _seqs(writer.part_sequences(0))
        fit = _QUEUED_BYTES // writer.layout.store_bytes(seqs)
        self._room = threading.Semaphore(min(max(1, fit), _QUEUED_PARTS))
        self._pool = ThreadPoolExecutor(_WRITERS, thread_name_prefix="harvest-write")
        self._pending: list[Future[None]] = []

    def __enter__(self) -> "_Writing":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True)
        if error is None:
            self._raise_failures(self._pending)

    @property
    def queued(self) -> int:
        """Return how many parts are being written or wait to be."""
        return sum(not future.done() for future in self._pending)

    def submit(self, part: int, chunks: Sequence["_HostChunk"]) -> None:
        """Queue a part; wait while the queue is full; raise what a thread raised."""
        while not self._room.acquire(timeout=1):
            self._forget_done()
        self._forget_done()
        self._pending.append(self._pool.submit(self._write, part, chunks))

    def _write(self, part: int, chunks: Sequence["_HostChunk"]) -> None:
        try:
            self._writer.write_part(part, [chunk.data() for chunk in chunks])
        finally:
            self._room.release()

    def _forget_done(self) -> None:
        done = [future for future in self._pending if future.done()]
        self._pending = [future for future in self._pending if not future.done()]
        self._raise_failures(done)

    @staticmethod
    def _raise_failures(futures: Iterable[Future[None]]) -> None:
        for future in futures:
            future.result()


class _Rows:
    """The rows of a group of chunks, taken from batches of other sizes."""

    def __init__(
        self, batches: Batches, dtype: StoredDtype, split: str, first_row: int
    ) -> None:
        self._batches = batches
        self._dtype = dtype
        self._split = split
        self._next_row = first_row
        self._held: dict[str, list[_Encoded]] = {}
        self._num_held = 0

    def take(self, count: int) -> dict[str, "_Encoded"]:
        """Return the next `count` rows of every hook, as they are stored."""
        while self._num_held < count:
            batch = next(self._batches)
            try:
                for hook, x in batch.items():
                    self._held.setdefault(hook, []).append(_encoded(x, self._dtype))
            except library.RowError as error:
                error.locate(self._split, self._next_row)
                raise
            self._num_held += len(x)
            self._next_row += len(x)
        taken = {}
        for hook, held in self._held.items():
            joined = held[0] if len(held) == 1 else _joined(held)
            taken[hook] = joined.part(slice(None, count))
            rest = joined.part(slice(count, None))
            self._held[hook] = [rest] if len(rest.values) else []
        self._num_held -= count
        return taken


class _Encoded(NamedTuple):
    """Rows of one hook as they are stored, on the LM's device."""

    values: Tensor
    norm: Tensor
    scale: Tensor | None
    squared_error: Tensor

    def part(self, rows: slice) -> "_Encoded":
        scale = None if self.scale is None else self.scale[rows]
        return _Encoded(
            self.values[rows], self.norm[rows], scale, self.squared_error[rows]
        )

    def x(self) -> Tensor:
        """Return the rows that a reader will see."""
        if self.scale is None:
            return self.values
        return self.values.float() * self.scale[:, None]


class _HostChunk(NamedTuple):
    """A chunk on its way to the disk, its bytes perhaps still coming from a GPU."""

    tokens: Tokens
    document: Documents
    values: dict[str, Tensor]
    scales: dict[str, Tensor | None]
    norms: dict[str, npt.NDArray[np.float32]]
    statistics: dict[str, Any]
    arrived: torch.cuda.Event | None

    def data(self) -> ChunkData:
        """Return the chunk as the store takes it, once it has arrived."""
        if self.arrived is not None:
            self.arrived.synchronize()
        hooks = {}
        for hook, values in self.values.items():
            scale = self.scales[hook]
            hooks[hook] = HookChunk(
                _as_array(values),
                self.norms[hook],
                None if scale is None else scale.numpy(),
            )
        return ChunkData(self.tokens, self.document, hooks, self.statistics)


def _chunk(
    writer: StoreWriter,
    source: Source,
    settings: Settings,
    rows: _Rows,
    chunk: int,
    split: str,
) -> _HostChunk:
    span = writer.rows(chunk)
    encoded = rows.take(span.stop - span.start)
    norms = {hook: found.norm.cpu() for hook, found in encoded.items()}
    try:
        for hook in encoded:
            library.check_finite(norms[hook], hook)
    except library.RowError as error:
        error.locate(split, span.start)
        raise
    tokens = source.tokens(writer.sequences(chunk))
    known = source.mask(tokens).reshape(-1)
    mask = statistics.chunk_mask(norms, known, settings.high_norm_ratio)
    values, arrived = _to_host({hook: found.values for hook, found in encoded.items()})
    return _HostChunk(
        tokens=tokens,
        document=source.document(writer.sequences(chunk)),
        values=values,
        scales={
            hook: None if found.scale is None else found.scale.cpu()
            for hook, found in encoded.items()
        },
        norms={hook: norm.numpy() for hook, norm in norms.items()},
        statistics={hook: _record(found, mask) for hook, found in encoded.items()},
        arrived=arrived,
    )


def _record(found: _Encoded, mask: Mask) -> dict[str, Any]:
    lost = found.squared_error.cpu()[torch.from_numpy(mask == 0)].sum()
    sums = statistics.chunk_statistics(found.x(), mask).as_record()
    return {"sums": sums, "squared_error": float(lost)}


def _encoded(x: Tensor, dtype: StoredDtype) -> _Encoded:
    stored = library.to_store(x, dtype)
    seen = _Encoded(stored.values, stored.values, stored.scale, stored.squared_error)
    return seen._replace(norm=library.norms(seen.x()))


def _joined(parts: Sequence[_Encoded]) -> _Encoded:
    scales = [part.scale for part in parts if part.scale is not None]
    return _Encoded(
        torch.cat([part.values for part in parts]),
        torch.cat([part.norm for part in parts]),
        torch.cat(scales) if scales else None,
        torch.cat([part.squared_error for part in parts]),
    )


def _to_host(
    values: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], torch.cuda.Event | None]:
    """Return the values in the CPU's memory, and what to wait for before reading."""
    if all(x.device.type != "cuda" for x in values.values()):
        return {hook: x.cpu() for hook, x in values.items()}, None
    host = {}
    for hook, x in values.items():
        host[hook] = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
        host[hook].copy_(x, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's own
    arrived.record()
    return host, arrived


def _as_array(values: Tensor) -> npt.NDArray[Any]:
    if values.dtype == torch.bfloat16:
        values = values.view(torch.uint16)
    array: npt.NDArray[Any] = values.contiguous().numpy()
    return array


def _seqs(span: slice) -> int:
    return int(span.stop - span.start)
