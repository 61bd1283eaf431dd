"""Rows of activations: read from an LM, masked, encoded for the store, checked."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int, UInt8
from torch import Tensor

from trilemma.config.sources import StoredDtype
from trilemma.lm import LM
from trilemma.sequences import MASK_FIRST, MASK_PADDING, MASK_SPECIAL
from trilemma.statistics import spans

_INT8_MAX = 127


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
            "run the LM in another dtype (harvest.lm_dtype), or make its cache again",
        )
        self.hook = hook


class Stored(NamedTuple):
    """Rows as the store keeps them, on the device they came from."""

    values: Tensor
    """`[rows, d_in]` in the stored dtype."""
    scale: Float32[Tensor, " rows"] | None
    """What int8 values are multiplied by; None for every other dtype."""
    squared_error: Float64[Tensor, " rows"]
    """Squared distance of each row from what is read back; 0 where nothing is lost."""


def mask_rows(
    tokens: Int[np.ndarray, "batch pos"],
    special_ids: frozenset[int],
    pad_id: int | None,
) -> UInt8[np.ndarray, "batch pos"]:
    """Return why each row does not count: special, padding, first of its sequence.

    The first position draws attention as a sink, whatever its token is.
    """
    is_special = np.isin(tokens, sorted(special_ids))
    mask = np.where(is_special, MASK_SPECIAL, 0).astype(np.uint8)
    mask[:, 0] |= MASK_FIRST
    if pad_id is not None:
        mask[tokens == pad_id] |= MASK_PADDING
    return mask


def batches(
    lm: LM,
    tokens: Int[np.ndarray, "num_seqs pos"],
    hooks: Sequence[str],
    *,
    batch_seqs: int,
) -> Iterator[dict[str, Float[Tensor, "rows d_in"]]]:
    """Yield the activations of some sequences after others, on the LM's device."""
    for batch in torch.split(torch.from_numpy(tokens), batch_seqs):
        found = lm.activations(batch, hooks)
        yield {hook: found.pop(hook).flatten(0, 1) for hook in dict.fromkeys(hooks)}


def to_store(x: Float[Tensor, "rows d_in"], dtype: StoredDtype) -> Stored:
    """Return the rows as the store keeps them; int8 is rounded half to even.

    Raises:
        RowError: a finite value is too large for float16.

    """
    if dtype == "int8":
        return _to_int8(x)
    values = x.to(getattr(torch, dtype))
    error = x.new_zeros(len(x), dtype=torch.float64)
    if torch.promote_types(x.dtype, values.dtype) == values.dtype:
        return Stored(values, None, error)
    for span in spans(x):
        error[span] = _squared_error(x[span].float(), values[span].float())
    if dtype == "float16":
        _check_overflow(x, error)
    return Stored(values, None, error)


def norms(x: Float[Tensor, "rows d_in"]) -> Float32[Tensor, " rows"]:
    """Return the Euclidean norm of each row, finite just where the row is."""
    norm = torch.empty(len(x), device=x.device)
    # Used again for each block: fresh memory would cost more than the norms.
    longest = max((span.stop - span.start for span in spans(x)), default=0)
    scratch = torch.empty(longest, x.shape[1], device=x.device)
    for span in spans(x):
        block = scratch[: span.stop - span.start].copy_(x[span])
        torch.linalg.vector_norm(block, dim=1, out=norm[span])
    # Only of the CPU's own memory can one ask without waiting.
    if x.device.type == "cpu" and bool(norm.isfinite().all()):
        return norm
    exact = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)
    largest = torch.finfo(torch.float32).max
    finite: Tensor = torch.where(exact.isfinite(), exact.clamp(max=largest), exact)
    return torch.where(norm.isfinite(), norm, finite.float())


def check_finite(norm: Float32[Tensor, " rows"], hook: str) -> None:
    """Raise NonFiniteError at the first row whose norm, from `norms`, is not finite."""
    if not bool(norm.isfinite().all()):
        raise NonFiniteError(hook, int((~norm.isfinite()).nonzero()[0]))


def _to_int8(x: Tensor) -> Stored:
    values = torch.empty_like(x, dtype=torch.int8)
    scale = torch.empty(len(x), device=x.device)
    error = torch.empty(len(x), dtype=torch.float64, device=x.device)
    for span in spans(x):
        block = x[span].float()
        step = block.abs().amax(1) / _INT8_MAX
        # A row of zeros, or one so small that its step is zero.
        step = torch.where(step == 0, 1, step)
        rounded = (block / step[:, None]).round_().clamp_(-_INT8_MAX, _INT8_MAX)
        values[span], scale[span] = rounded, step
        error[span] = _squared_error(block, rounded.mul_(step[:, None]))
    return Stored(values, scale, error)


def _squared_error(x: Tensor, seen: Tensor) -> Tensor:
    error: Tensor = torch.linalg.vector_norm(x - seen, dim=1, dtype=torch.float64)
    return error.square_()


def _check_overflow(x: Tensor, error: Tensor) -> None:
    """Raise RowError where a finite value became infinite, by its infinite error."""
    # Infinity less infinity is NaN: what was not finite before is told elsewhere.
    too_large = error.isinf()
    if bool(too_large.any()):
        row = int(too_large.nonzero()[0])
        raise RowError(
            f"store.dtype: float16 cannot hold the {float(x[row].abs().max()):,.0f} in",
            row,
            "use bfloat16 or float32",
        )
