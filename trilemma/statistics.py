"""Statistics of stored rows: of a chunk, of all chunks joined, exact quantiles."""

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, UInt8
from torch import Tensor

from trilemma.sequences import MASK_HIGH_NORM

# Float32 values in a block: 2 MiB, which stays in a core's cache.
_BLOCK_VALUES = 1 << 19
# Rows, spread over a chunk, whose mean the others are counted from.
_SHIFT_ROWS = 64
_HALF_BITS = 16
_BINS = 1 << _HALF_BITS
_ALL_MASKED = (
    "harvest: every row is masked; name a corpus with more than special tokens"
)


@dataclass(frozen=True)
class ChunkStatistics:
    """Sums over the unmasked rows of one chunk, in float64 on the CPU."""

    count: int
    mean: Float64[Tensor, " d_in"]
    m2: Float64[Tensor, " d_in"]
    """Sum of squared differences from the mean of this chunk."""
    mean_squared_norm: float
    max_abs: float

    def as_record(self) -> dict[str, Any]:
        """Return the same to the bit, fit for JSON."""
        return {
            "count": self.count,
            "mean": _encode(self.mean),
            "m2": _encode(self.m2),
            "mean_squared_norm": self.mean_squared_norm,
            "max_abs": self.max_abs,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "ChunkStatistics":
        """Return what `as_record` was called on."""
        vectors = {name: _decode(record[name]) for name in ("mean", "m2")}
        return cls(**(dict(record) | vectors))


@dataclass(frozen=True)
class StoreStatistics:
    """Statistics over the unmasked rows of all chunks, in float64."""

    count: int
    mean: Float64[Tensor, " d_in"]
    variance: Float64[Tensor, " d_in"]
    """Of the rows themselves: divided by count, not count - 1."""
    mean_squared_norm: float
    max_abs: float


def spans(x: Float[Tensor, "rows d_in"]) -> Iterator[slice]:
    """Yield spans of rows so short that in float32 they stay in a core's cache."""
    size = max(_BLOCK_VALUES // x.shape[1], 1)
    for start in range(0, len(x), size):
        yield slice(start, min(start + size, len(x)))


def high_norm_rows(
    norm: Float32[np.ndarray, " rows"], *, median: float, ratio: float
) -> Bool[np.ndarray, " rows"]:
    """Return which rows exceed `ratio` times the median norm."""
    # In float64: NumPy would round a plain float to the array's float32.
    return np.asarray(norm.astype(np.float64) > ratio * median)


def chunk_mask(
    norm_by_hook: Mapping[str, Float32[Tensor, " rows"]],
    mask: UInt8[np.ndarray, " rows"],
    ratio: float,
) -> UInt8[np.ndarray, " rows"]:
    """Return the mask with the high-norm bit set by the chunk's own medians.

    The bit is provisional: the median of the whole store has the last word.
    """
    kept = mask == 0
    full = mask.copy()
    if kept.any():
        for tensor in norm_by_hook.values():
            norm = tensor.numpy()
            median = float(np.median(norm[kept].astype(np.float64)))
            full[high_norm_rows(norm, median=median, ratio=ratio)] |= MASK_HIGH_NORM
    return full


def chunk_statistics(
    x: Float[Tensor, "rows d_in"], mask: UInt8[np.ndarray, " rows"]
) -> ChunkStatistics:
    """Return the statistics of the rows whose mask is 0.

    Float32 inside blocks of rows, float64 across them. A look at the result makes a
    GPU wait once.
    """
    sums = _block_sums(x, mask, torch.float32)
    if not bool(sums.blocks.isfinite().all()):
        sums = _block_sums(x, mask, torch.float64)
    zero = torch.zeros(x.shape[1], dtype=torch.float64)
    joined = ChunkStatistics(0, zero, zero, 0.0, 0.0)
    for count, (shift, total, squares) in zip(sums.counts, sums.blocks, strict=True):
        offset = total / count
        m2 = (squares - total * offset).clamp_(min=0)
        mean = shift + offset
        norm = float(m2.sum()) / count + float(mean.square().sum())
        joined = join(joined, ChunkStatistics(count, mean, m2, norm, sums.max_abs))
    return joined


def join(left: ChunkStatistics, right: ChunkStatistics) -> ChunkStatistics:
    """Return the statistics of two sets of rows together.

    Chan, Golub and LeVeque (1979), eq. 2.1, with M for our mean and S for m2:
    M = M_A + delta n_B / n, S = S_A + S_B + delta^2 n_A n_B / n.
    """
    if right.count == 0:
        return left
    count = left.count + right.count
    share = right.count / count
    delta = right.mean - left.mean
    gap = right.mean_squared_norm - left.mean_squared_norm
    return ChunkStatistics(
        count=count,
        mean=left.mean + delta * share,
        m2=left.m2 + right.m2 + delta.square() * (left.count * share),
        mean_squared_norm=left.mean_squared_norm + gap * share,
        max_abs=max(left.max_abs, right.max_abs),
    )


def reduce_statistics(chunks: Iterable[ChunkStatistics]) -> StoreStatistics:
    """Return the statistics of all chunks, joined in the order given.

    Raises:
        ValueError: no row is left by the masks.

    """
    total: ChunkStatistics | None = None
    for chunk in chunks:
        total = chunk if total is None else join(total, chunk)
    if total is None or total.count == 0:
        raise ValueError(_ALL_MASKED)
    return StoreStatistics(
        count=total.count,
        mean=total.mean,
        variance=total.m2 / total.count,
        mean_squared_norm=total.mean_squared_norm,
        max_abs=total.max_abs,
    )


def norm_order(
    blocks: Callable[[], Iterable[Mapping[str, Float32[np.ndarray, " rows"]]]],
    quantiles: Sequence[float],
) -> dict[str, list[float]]:
    """Return exact quantiles of each hook's norms, interpolated linearly as by NumPy.

    Two passes over the blocks, in memory that does not grow with them: the bits of
    floats that are not negative have the order of the floats, so a histogram of their
    upper halves finds the bins that matter, and one of the lower halves in each of
    these finds the values.

    Raises:
        ValueError: the blocks are empty.

    """
    orders: dict[str, _Order] = {}
    for block in blocks():
        for hook, norm in block.items():
            orders.setdefault(hook, _Order(quantiles)).add_upper(_bits(norm))
    if not orders:
        raise ValueError(_ALL_MASKED)
    for order in orders.values():
        order.choose()
    for block in blocks():
        for hook, norm in block.items():
            orders[hook].add_lower(_bits(norm))
    return {hook: order.values() for hook, order in orders.items()}


class _Order:
    """Histograms from which the quantiles of one hook's norms are read."""

    def __init__(self, quantiles: Sequence[float]) -> None:
        self._quantiles = quantiles
        self._upper = np.zeros(_BINS, dtype=np.int64)

    def add_upper(self, bits: np.ndarray) -> None:
        self._upper += np.bincount(bits >> _HALF_BITS, minlength=_BINS)

    def choose(self) -> None:
        """Find the bins that hold the ranks wanted."""
        self._below = np.concatenate([[0], np.cumsum(self._upper)])
        self._last = int(self._below[-1]) - 1
        if self._last < 0:
            raise ValueError(_ALL_MASKED)
        self._places = [quantile * self._last for quantile in self._quantiles]
        near = {min(int(p) + step, self._last) for p in self._places for step in (0, 1)}
        self._bins = {
            rank: int(np.searchsorted(self._below, rank, side="right")) - 1
            for rank in sorted(near)
        }
        self._lower = {
            number: np.zeros(_BINS, dtype=np.int64) for number in self._bins.values()
        }

    def add_lower(self, bits: np.ndarray) -> None:
        for number, histogram in self._lower.items():
            inside = bits[bits >> _HALF_BITS == number] & (_BINS - 1)
            self._lower[number] = histogram + np.bincount(inside, minlength=_BINS)

    def values(self) -> list[float]:
        value = {
            rank: _float(
                number, np.cumsum(self._lower[number]), rank - int(self._below[number])
            )
            for rank, number in self._bins.items()
        }
        return [
            float(
                np.quantile(
                    [value[int(p)], value[min(int(p) + 1, self._last)]], p - int(p)
                )
            )
            for p in self._places
        ]


@dataclass(frozen=True)
class _BlockSums:
    """For each block with unmasked rows: how many, shift, sum and squares about it."""

    counts: list[int]
    blocks: Float64[Tensor, "blocks 3 d_in"]
    max_abs: float


def _block_sums(
    x: Tensor, mask: UInt8[np.ndarray, " rows"], dtype: torch.dtype
) -> _BlockSums:
    d_in = x.shape[1]
    kept, masked = np.flatnonzero(mask == 0), np.flatnonzero(mask)
    if len(kept) == 0:
        return _BlockSums([], torch.zeros(0, 3, d_in, dtype=torch.float64), 0.0)
    where = torch.from_numpy(masked).to(x.device)
    shift = _shift(x, kept).to(dtype)
    # Used again for each block: fresh memory would cost as much as the sums.
    longest = max(span.stop - span.start for span in spans(x))
    scratch = torch.empty(longest, d_in, dtype=dtype, device=x.device)
    counts: list[int] = []
    sums: list[Tensor] = []
    extremes: list[Tensor] = []
    for span in spans(x):
        first, last = np.searchsorted(masked, (span.start, span.stop)).tolist()
        count = span.stop - span.start - (last - first)
        if count == 0:
            continue
        hidden = where[first:last] - span.start
        block = scratch[: span.stop - span.start].copy_(x[span])
        extremes.extend(torch.aminmax(block.index_fill_(0, hidden, 0)))
        block.sub_(shift).index_fill_(0, hidden, 0)
        total = block.sum(0)
        sums.append(torch.stack([shift, total, block.mul_(block).sum(0)]))
        counts.append(count)
    extreme = torch.stack(extremes).abs().max()
    everything = torch.cat([torch.stack(sums).flatten(), extreme[None]]).cpu().double()
    return _BlockSums(
        counts, everything[:-1].view(len(counts), 3, d_in), float(everything[-1])
    )


def _shift(x: Tensor, kept: np.ndarray) -> Tensor:
    """Return roughly the mean row, in float64.

    Sums of rows less it lose no digits where the mean is far above the deviation;
    being near is enough.
    """
    some = kept[:: max(len(kept) // _SHIFT_ROWS, 1)]
    return x[torch.from_numpy(some).to(x.device)].double().mean(0)


def _bits(block: Float32[np.ndarray, " rows"]) -> np.ndarray:
    bits: np.ndarray = np.ascontiguousarray(block).view(np.uint32)
    return bits


def _float(upper: int, cumulative: np.ndarray, rank: int) -> float:
    """Return the value at a rank inside a bin of upper halves."""
    lower = int(np.searchsorted(cumulative, rank, side="right"))
    return float(np.uint32(upper << _HALF_BITS | lower).view(np.float32))


def _encode(vector: Float64[Tensor, " d_in"]) -> str:
    return base64.b64encode(vector.numpy().astype("<f8").tobytes()).decode("ascii")


def _decode(text: str) -> Float64[Tensor, " d_in"]:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f8").copy())
