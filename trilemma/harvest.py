"""Activations of a chunk of sequences: read, checked, masked, summed up, encoded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, UInt8
from torch import Tensor

from trilemma.config.sources import Dtype
from trilemma.lm import LM
from trilemma.sequences import MASK_FIRST, MASK_SPECIAL

_QUANTILES = (1, 5, 50, 95, 99)


class RowError(ValueError):
    """A row of a chunk cannot be stored."""

    def __init__(self, found: str, row: int, advice: str) -> None:
        """Tell what was found, in which row of the chunk, and what to do."""
        super().__init__(f"{found} row {row:,} of the chunk; {advice}")
        self.row = row
        self._found, self._advice = found, advice

    def locate(self, split: str, first_row: int) -> None:
        """Name the row by its place in the split, not in the chunk."""
        row = first_row + self.row
        self.args = (f"{self._found} row {row:,} of {split}; {self._advice}",)


class NonFiniteError(RowError):
    """An activation is infinite or not a number."""

    def __init__(self, hook: str, row: int) -> None:
        super().__init__(
            f"harvest: {hook} is not finite at",
            row,
            "run the LM in another dtype (harvest.lm_dtype)",
        )
        self.hook = hook


@dataclass(frozen=True)
class ChunkStatistics:
    """Sums over the unmasked rows of one chunk, in float64."""

    count: int
    mean: Float64[Tensor, " d_in"]
    m2: Float64[Tensor, " d_in"]
    """Sum of squared differences from the mean of this chunk."""
    mean_squared_norm: float
    max_abs: float


@dataclass(frozen=True)
class StoreStatistics:
    """Statistics over the unmasked rows of all chunks, in float64."""

    count: int
    mean: Float64[Tensor, " d_in"]
    variance: Float64[Tensor, " d_in"]
    """Of the rows themselves: divided by count, not count - 1."""
    mean_squared_norm: float
    max_abs: float


def mask_rows(
    tokens: Int[np.ndarray, "batch pos"], special_ids: frozenset[int]
) -> UInt8[np.ndarray, "batch pos"]:
    """Return why each row does not count: a special token, the first of its sequence.

    The first position draws attention as a sink, whatever its token is.
    """
    is_special = np.isin(tokens, sorted(special_ids))
    mask = np.where(is_special, MASK_SPECIAL, 0).astype(np.uint8)
    mask[:, 0] |= MASK_FIRST
    return mask


def harvest_chunk(
    lm: LM,
    tokens: Int[np.ndarray, "num_seqs pos"],
    hooks: Sequence[str],
    *,
    batch_seqs: int,
) -> dict[str, Float[Tensor, "rows d_in"]]:
    """Return the activations of each hook, on the CPU and in the LM's own dtype.

    Raises:
        NonFiniteError: an activation is infinite or not a number.

    """
    batches = [
        lm.activations(batch, hooks)
        for batch in torch.split(torch.from_numpy(tokens), batch_seqs)
    ]
    chunk = {}
    for hook in hooks:
        rows = torch.cat([batch.pop(hook).flatten(0, 1).cpu() for batch in batches])
        _check_finite(rows, hook)
        chunk[hook] = rows
    return chunk


def chunk_statistics(
    x: Float[Tensor, "rows d_in"], mask: UInt8[np.ndarray, " rows"]
) -> ChunkStatistics:
    """Return the statistics of the rows whose mask is 0."""
    kept = x[torch.from_numpy(mask == 0)].double()
    count = len(kept)
    if count == 0:
        zero = torch.zeros(x.shape[1], dtype=torch.float64)
        return ChunkStatistics(0, zero, zero, 0.0, 0.0)
    mean = kept.mean(0)
    return ChunkStatistics(
        count=count,
        mean=mean,
        m2=(kept - mean).square().sum(0),
        mean_squared_norm=float(kept.square().sum()) / count,
        max_abs=float(kept.abs().max()),
    )


def reduce_statistics(chunks: Sequence[ChunkStatistics]) -> StoreStatistics:
    """Return the statistics of all chunks, joined in the order given.

    Chan, Golub and LeVeque (1979), eq. 2.1, with M for our mean and S for m2:
    M = M_A + delta n_B / n, S = S_A + S_B + delta^2 n_A n_B / n.

    Raises:
        ValueError: no row is left by the masks.

    """
    count, mean_squared_norm, max_abs = 0, 0.0, 0.0
    mean = torch.zeros_like(chunks[0].mean)
    m2 = torch.zeros_like(mean)
    for chunk in chunks:
        if chunk.count == 0:
            continue
        total = count + chunk.count
        share = chunk.count / total
        delta = chunk.mean - mean
        mean = mean + delta * share
        m2 = m2 + chunk.m2 + delta.square() * (count * share)
        mean_squared_norm += (chunk.mean_squared_norm - mean_squared_norm) * share
        max_abs = max(max_abs, chunk.max_abs)
        count = total
    if count == 0:
        raise ValueError(
            "harvest: every row is masked; name a corpus with more than special tokens"
        )
    return StoreStatistics(count, mean, m2 / count, mean_squared_norm, max_abs)


def to_store(x: Float[Tensor, "rows d_in"], dtype: Dtype) -> np.ndarray:
    """Return the rows as the store keeps them; bfloat16 as the uint16 of its bits.

    Raises:
        RowError: a value is too large for float16.

    """
    stored = x.detach().to("cpu", getattr(torch, dtype)).contiguous()
    too_large = ~stored.isfinite().all(1)
    if too_large.any():
        row = int(too_large.nonzero()[0])
        raise RowError(
            f"store.dtype: {dtype} cannot hold the {float(x[row].abs().max()):,.0f} in",
            row,
            "use bfloat16 or float32",
        )
    if stored.dtype == torch.bfloat16:
        stored = stored.view(torch.uint16)
    array: np.ndarray = stored.numpy()
    return array


def norms(x: Float[Tensor, "rows d_in"]) -> Float32[np.ndarray, " rows"]:
    """Return the Euclidean norm of each row, summed in float32."""
    array: np.ndarray = x.float().norm(dim=1).numpy()
    return array


def norm_quantiles(
    norm: Float32[np.ndarray, " rows"], mask: UInt8[np.ndarray, " rows"]
) -> dict[str, float]:
    """Return quantiles of the norms of unmasked rows, by name."""
    kept = norm[mask == 0]
    return {f"norm_q{q:02d}": float(np.quantile(kept, q / 100)) for q in _QUANTILES}


def high_norm_rows(
    norm: Float32[np.ndarray, " rows"], mask: UInt8[np.ndarray, " rows"], ratio: float
) -> Bool[np.ndarray, " rows"]:
    """Return which rows exceed `ratio` times the median norm of the unmasked rows."""
    kept = norm[mask == 0]
    if len(kept) == 0:
        return np.zeros(len(norm), dtype=bool)
    return np.asarray(norm > ratio * np.median(kept))


def _check_finite(x: Tensor, hook: str) -> None:
    if bool(x.isfinite().all()):
        return
    raise NonFiniteError(hook, int((~x.isfinite().all(1)).nonzero()[0]))
