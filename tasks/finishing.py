"""The end of a harvest: final masks and statistics, chunk by chunk in their order."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from storage.artifacts import File
from storage.store_writer import StoreWriter
from tasks.harvesting import Mask, Source
from tasks.interruption import Interrupted
from trilemma import statistics
from trilemma.sequences import MASK_HIGH_NORM

_READERS = 8
_MEDIAN = 0.5
_QUANTILES = {
    "norm_q01": 0.01,
    "norm_q05": 0.05,
    "norm_q50": 0.5,
    "norm_q95": 0.95,
    "norm_q99": 0.99,
}

Norms = npt.NDArray[np.float32]


class Finished(NamedTuple):
    """A split that is ready to be committed."""

    files: dict[str, File]
    """Every file of it, by its name in the artifact."""
    statistics: dict[str, dict[str, Any]]
    """Of each hook; what a reader finds in the store."""


def finish(
    writer: StoreWriter,
    source: Source,
    high_norm_ratio: float,
    *,
    asked: Callable[[], bool],
) -> Finished:
    """Write what only the whole split tells.

    The median norm of the split decides which rows are high; a chunk whose own median
    had decided otherwise is summed up again, from its stored values. Nothing is held
    that grows with the split but a few bytes for each chunk.

    Raises:
        Interrupted: `asked` says so; all that was harvested stays.
    """
    split = _Split(writer, source, high_norm_ratio, asked)
    totals, num_high = _totals(split)
    quantiles = statistics.norm_order(split.final_norms, [*_QUANTILES.values()])
    vectors: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for hook, total in totals.items():
        found = statistics.reduce_statistics([total.sums])
        vectors[hook] = {"mean": found.mean.numpy(), "variance": found.variance.numpy()}
        scalars[hook] = {
            "count": found.count,
            "mean_squared_norm": found.mean_squared_norm,
            "max_abs": found.max_abs,
            "high_norm_rows": num_high,
            "high_norm_share": num_high / (source.num_seqs * writer.layout.ctx),
            **dict(zip(_QUANTILES, quantiles[hook], strict=True)),
        }
        if writer.layout.dtype == "int8":
            spread = float(found.variance.sum()) * found.count
            scalars[hook]["int8_fvu"] = total.squared_error / spread if spread else 0.0
    return Finished(writer.finish(split.final, vectors, scalars), scalars)


class _Total(NamedTuple):
    """Of one hook: sums over the chunks so far, and what int8 has lost of them."""

    sums: statistics.ChunkStatistics
    squared_error: float


class _Chunk(NamedTuple):
    """What decides the masks of a chunk."""

    known: Mask
    """Why rows do not count, as known without their norms."""
    norms: dict[str, Norms]


class _Split:
    """The rows of a split, chunk by chunk, and why they do not count."""

    def __init__(
        self,
        writer: StoreWriter,
        source: Source,
        ratio: float,
        asked: Callable[[], bool],
    ) -> None:
        self.writer = writer
        self._source = source
        self._ratio = ratio
        self._asked = asked
        found = statistics.norm_order(self._known_norms, [_MEDIAN])
        self._medians = {hook: median for hook, (median,) in found.items()}

    def chunks(self) -> Iterator[_Chunk]:
        """Yield every chunk; a few are read ahead, for a bucket takes its time."""
        with ThreadPoolExecutor(_READERS) as pool:
            ahead: deque[Future[_Chunk]] = deque()
            for chunk in range(self.writer.num_chunks):
                ahead.append(pool.submit(self._read, chunk))
                if len(ahead) > _READERS:
                    yield self._next(ahead)
            while ahead:
                yield self._next(ahead)

    def final(self, chunk: int) -> Mask:
        """Return the mask of a chunk."""
        return self.final_of(self._read(chunk))

    def final_of(self, chunk: _Chunk) -> Mask:
        """Return the mask of a chunk, by the medians of the split."""
        mask = chunk.known.copy()
        for hook, median in self._medians.items():
            norm = chunk.norms[hook]
            is_high = statistics.high_norm_rows(norm, median=median, ratio=self._ratio)
            mask[is_high] |= MASK_HIGH_NORM
        return mask

    def first_of(self, chunk: _Chunk) -> Mask:
        """Return the mask by which the chunk was summed up when it was harvested."""
        norms = {hook: torch.from_numpy(norm) for hook, norm in chunk.norms.items()}
        return statistics.chunk_mask(norms, chunk.known, self._ratio)

    def final_norms(self) -> Iterator[dict[str, Norms]]:
        """Yield the norms of the rows that count in the end."""
        for chunk in self.chunks():
            is_kept = self.final_of(chunk) == 0
            yield {hook: norm[is_kept] for hook, norm in chunk.norms.items()}

    def _known_norms(self) -> Iterator[dict[str, Norms]]:
        for chunk in self.chunks():
            is_kept = chunk.known == 0
            yield {hook: norm[is_kept] for hook, norm in chunk.norms.items()}

    def _read(self, chunk: int) -> _Chunk:
        tokens = self.writer.read_tokens(chunk)
        norms = {
            hook: np.array(self.writer.read_norm(hook, chunk))
            for hook in self.writer.layout.widths
        }
        return _Chunk(self._source.mask(tokens).reshape(-1), norms)

    def _next(self, ahead: deque[Future[_Chunk]]) -> _Chunk:
        if self._asked():
            for future in ahead:
                future.cancel()
            raise Interrupted("asked to stop while finishing the store")
        return ahead.popleft().result()


def _totals(split: _Split) -> tuple[dict[str, _Total], int]:
    """Return the sums of each hook over rows that count, and how many rows are high."""
    writer = split.writer
    totals: dict[str, _Total] = {}
    num_high = 0
    records = zip(split.chunks(), writer.read_statistics(), strict=True)
    for number, (chunk, found) in enumerate(records):
        final = split.final_of(chunk)
        num_high += int(np.count_nonzero(final & MASK_HIGH_NORM))
        is_same = np.array_equal(final, split.first_of(chunk))
        for hook in writer.layout.widths:
            if is_same:
                sums = statistics.ChunkStatistics.from_record(found[hook]["sums"])
                error = float(found[hook]["squared_error"])
            else:
                values = _values(writer, hook, number)
                sums = statistics.chunk_statistics(values, final)
                error = _estimated_error(writer, hook, number, final)
            before = totals.get(hook)
            if before is None:
                totals[hook] = _Total(sums, error)
            else:
                joined = statistics.join(before.sums, sums)
                totals[hook] = _Total(joined, before.squared_error + error)
    return totals, num_high


def _estimated_error(writer: StoreWriter, hook: str, chunk: int, mask: Mask) -> float:
    """Return what int8 loses of the rows that count: the rows as they were are gone.

    A rounding error is taken to be uniform, so its square to be step^2 / 12 on average.
    """
    if writer.layout.dtype != "int8":
        return 0.0
    step = writer.read_scale(hook, chunk)[mask == 0].astype(np.float64)
    return float(np.square(step).sum()) * writer.layout.widths[hook] / 12


def _values(writer: StoreWriter, hook: str, chunk: int) -> Tensor:
    dtype = writer.layout.dtype
    values = torch.from_numpy(np.array(writer.read_values(hook, chunk)))
    if dtype == "bfloat16":
        return values.view(torch.bfloat16)
    if dtype == "int8":
        scale = torch.from_numpy(np.array(writer.read_scale(hook, chunk)))
        return values.float() * scale[:, None]
    return values
