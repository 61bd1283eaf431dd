"""Triton kernels for sums over the pairs of a sparse code, on CUDA.

Both are without atomics, so equal inputs give equal bits. Sums are float32. Import this
module only where Triton is installed; `sparse_products` decides that.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int64
from torch import Tensor

# Pairs and columns that a program takes at once: a tile of 16 x 128 floats.
_PAIRS = 16
_COLUMNS = 128


def bag_sums(
    places: Int64[Tensor, "num"],
    table: Float[Tensor, "rows d_in"],
    starts: Int64[Tensor, "bags"],
    weights: Float[Tensor, "num"],
) -> Float[Tensor, "bags d_in"]:
    """Return, for each bag of consecutive pairs, the sum of weight times table row."""
    d_in = table.shape[1]
    sums = torch.empty(len(starts), d_in, device=table.device, dtype=torch.float32)
    grid = (len(starts), triton.cdiv(d_in, _COLUMNS))
    with torch.cuda.device_of(table):  # type: ignore[no-untyped-call]  # torch's
        _bag_sums[grid](
            places,
            table,
            starts,
            weights,
            sums,
            len(places),
            len(starts),
            d_in,
            PAIRS=_PAIRS,
            COLUMNS=_COLUMNS,
        )
    return sums


def pair_dots(
    left: Float[Tensor, "rows d_in"],
    right: Float[Tensor, "others d_in"],
    left_places: Int64[Tensor, "num"],
    right_places: Int64[Tensor, "num"],
) -> Float[Tensor, "num"]:
    """Return the inner product of each pair's rows of the two tables."""
    num, d_in = len(left_places), left.shape[1]
    dots = torch.empty(num, device=left.device, dtype=torch.float32)
    if num:
        with torch.cuda.device_of(left):  # type: ignore[no-untyped-call]  # torch's
            _pair_dots[(triton.cdiv(num, _PAIRS),)](
                left,
                right,
                left_places,
                right_places,
                dots,
                num,
                d_in,
                PAIRS=_PAIRS,
                COLUMNS=_COLUMNS,
            )
    return dots


# Triton compiles what follows; its arguments are pointers and numbers, without types.


@triton.jit  # type: ignore[untyped-decorator]  # Triton is without types
def _bag_sums(  # type: ignore[no-untyped-def]  # as above
    places,
    table,
    starts,
    weights,
    sums,
    num,
    num_bags,
    d_in,
    PAIRS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    bag = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_column = columns < d_in
    start = tl.load(starts + bag)
    stop = tl.load(starts + bag + 1, mask=bag + 1 < num_bags, other=num)
    total = tl.zeros((COLUMNS,), dtype=tl.float32)
    for first in range(start, stop, PAIRS):
        pairs = first + tl.arange(0, PAIRS)
        is_pair = pairs < stop
        place = tl.load(places + pairs, mask=is_pair, other=0)
        weight = tl.load(weights + pairs, mask=is_pair, other=0.0).to(tl.float32)
        rows = tl.load(
            table + place[:, None] * d_in + columns[None, :],
            mask=is_pair[:, None] & is_column[None, :],
            other=0.0,
        ).to(tl.float32)
        total += tl.sum(rows * weight[:, None], axis=0)
    tl.store(sums + bag * d_in + columns, total, mask=is_column)


@triton.jit  # type: ignore[untyped-decorator]  # Triton is without types
def _pair_dots(  # type: ignore[no-untyped-def]  # as above
    left,
    right,
    left_places,
    right_places,
    dots,
    num,
    d_in,
    PAIRS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    pairs = tl.program_id(0).to(tl.int64) * PAIRS + tl.arange(0, PAIRS)
    is_pair = pairs < num
    left_rows = tl.load(left_places + pairs, mask=is_pair, other=0) * d_in
    right_rows = tl.load(right_places + pairs, mask=is_pair, other=0) * d_in
    total = tl.zeros((PAIRS,), dtype=tl.float32)
    for first in range(0, d_in, COLUMNS):
        columns = first + tl.arange(0, COLUMNS)
        mask = is_pair[:, None] & (columns < d_in)[None, :]
        one = tl.load(
            left + left_rows[:, None] + columns[None, :], mask=mask, other=0.0
        )
        two = tl.load(
            right + right_rows[:, None] + columns[None, :], mask=mask, other=0.0
        )
        total += tl.sum(one.to(tl.float32) * two.to(tl.float32), axis=1)
    tl.store(dots + pairs, total, mask=is_pair)
