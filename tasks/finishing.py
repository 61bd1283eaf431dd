"""The end of a harvest: final masks and statistics, chunk by chunk in their order."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from storage.artifacts import File
from storage.store_writer import StoreWriter
from tasks.harvesting import Mask, Source
from trilemma import statistics
from trilemma.sequences import MASK_HIGH_NORM

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


def finish(writer: StoreWriter, source: Source, high_norm_ratio: float) -> Finished:
    """Write what only the whole split tells.

    The median norm of the split decides which rows are high; a chunk whose own median
    had decided otherwise is summed up again, from its stored values. Nothing is held
    that grows with the split but a few bytes for each chunk.
    """
    marks = _Marks(writer, source, high_norm_ratio)
    vectors: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    scalars: dict[str, dict[str, Any]] = {}
    num_high = sum(
        int(np.count_nonzero(marks.final(chunk) & MASK_HIGH_NORM))
        for chunk in range(writer.num_chunks)
    )
    for hook in writer.layout.widths:
        total = statistics.reduce_statistics(_sums(writer, marks, hook))
        vectors[hook] = {"mean": total.mean.numpy(), "variance": total.variance.numpy()}
        quantiles = statistics.norm_order(
            functools.partial(marks.norms, hook, marks.final), [*_QUANTILES.values()]
        )
        scalars[hook] = {
            "count": total.count,
            "mean_squared_norm": total.mean_squared_norm,
            "max_abs": total.max_abs,
            "high_norm_rows": num_high,
            "high_norm_share": num_high / (source.num_seqs * writer.layout.ctx),
            **dict(zip(_QUANTILES, quantiles, strict=True)),
        }
        if writer.layout.dtype == "int8":
            lost = sum(
                found[hook]["squared_error"] for found in writer.read_statistics()
            )
            scalars[hook]["int8_fvu"] = lost / (
                float(total.variance.sum()) * total.count
            )
    return Finished(writer.finish(marks.final, vectors, scalars), scalars)


class _Marks:
    """Why rows do not count: as known before the harvest, and as known after it."""

    def __init__(self, writer: StoreWriter, source: Source, ratio: float) -> None:
        self._writer = writer
        self._source = source
        self._ratio = ratio
        self._medians = {hook: self._median(hook) for hook in writer.layout.widths}

    def norms(self, hook: str, mask: Callable[[int], Mask]) -> Iterator[Norms]:
        """Yield the norms of the rows that count by a mask, chunk by chunk."""
        for chunk in range(self._writer.num_chunks):
            yield self._writer.read_norm(hook, chunk)[mask(chunk) == 0]

    def final(self, chunk: int) -> Mask:
        """Return the mask of a chunk."""
        mask = self._known(chunk).copy()
        for hook, median in self._medians.items():
            norm = self._writer.read_norm(hook, chunk)
            is_high = statistics.high_norm_rows(norm, median=median, ratio=self._ratio)
            mask[is_high] |= MASK_HIGH_NORM
        return mask

    def first(self, chunk: int) -> Mask:
        """Return the mask by which the chunk was summed up when it was harvested."""
        norms = {
            hook: torch.from_numpy(self._writer.read_norm(hook, chunk).copy())
            for hook in self._medians
        }
        return statistics.chunk_mask(norms, self._known(chunk), self._ratio)

    def _known(self, chunk: int) -> Mask:
        tokens = self._writer.read_tokens(chunk)
        return self._source.mask(tokens).reshape(-1)

    def _median(self, hook: str) -> float:
        (median,) = statistics.norm_order(
            lambda: self.norms(hook, self._known), [_MEDIAN]
        )
        return median


def _sums(
    writer: StoreWriter, marks: _Marks, hook: str
) -> Iterator[statistics.ChunkStatistics]:
    """Yield the sums of each chunk over the rows that count in the end."""
    for chunk, found in enumerate(writer.read_statistics()):
        final = marks.final(chunk)
        if np.array_equal(final, marks.first(chunk)):
            yield statistics.ChunkStatistics.from_record(found[hook]["sums"])
        else:
            yield statistics.chunk_statistics(_values(writer, hook, chunk), final)


def _values(writer: StoreWriter, hook: str, chunk: int) -> Tensor:
    dtype = writer.layout.dtype
    values = torch.from_numpy(np.array(writer.read_values(hook, chunk)))
    if dtype == "bfloat16":
        return values.view(torch.bfloat16)
    if dtype == "int8":
        return (
            values.float()
            * torch.from_numpy(writer.read_scale(hook, chunk).copy())[:, None]
        )
    return values
