"""Processes that train one SAE together, each with its share of every batch's rows."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor

from trilemma import selection


class Ranks(NamedTuple):
    """This process among those of torch's process group that train together.

    Every term of a loss is made of means over the rows of all ranks, so it is the same
    number in each; its gradient in each is the part that comes from its own rows. With
    L = f(sum_r x_r) those parts are f' dx_r, and their sum is the gradient of L,
    whether f is linear or not.

    All ranks have to call the same methods in the same order. Alone, a method returns
    what it was given.
    """

    rank: int
    size: int

    def share(self, num_rows: int) -> slice:
        """Return which of a batch's rows are this rank's: consecutive ones."""
        first, last = (num_rows * r // self.size for r in (self.rank, self.rank + 1))
        return slice(first, last)

    def total(self, value: Tensor) -> Tensor:
        """Return the sum over ranks, whose gradient is that of this rank's value."""
        if self.size == 1:
            return value
        result: Tensor = _Total.apply(value)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
        return result

    def least(self, value: Tensor) -> Tensor:
        """Return the smallest of the ranks' values."""
        return self._reduced(value, dist.ReduceOp.MIN)

    def any(self, mask: Bool[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        """Return what is true in at least one rank."""
        if self.size == 1:
            return mask
        return self._reduced(mask.to(torch.uint8), dist.ReduceOp.MAX).bool()

    def gathered(self, values: Tensor) -> list[Tensor]:
        """Return the values of each rank; the first dimension may differ."""
        if self.size == 1:
            return [values]
        length = torch.tensor([len(values)], device=values.device)
        lengths = [torch.empty_like(length) for _ in range(self.size)]
        dist.all_gather(lengths, length)
        sizes = [int(each) for each in lengths]
        padded = values.new_zeros(max(sizes), *values.shape[1:])
        padded[: len(values)] = values
        pieces = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(pieces, padded)
        return [piece[:size] for piece, size in zip(pieces, sizes, strict=True)]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over ranks; the same bits in each of them."""
        if self.size == 1:
            return
        pending = [
            # Matrices may be transposed; sent is the memory as it lies.
            dist.all_reduce(each if each.is_contiguous() else each.t(), async_op=True)
            for each in tensors
        ]
        for work in pending:
            work.wait()

    def _reduced(self, value: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value, how)
        return value


ALONE = Ranks(rank=0, size=1)


def largest_in_all(
    pre_acts: Float[Tensor, "batch d_sae"], k: int, *, num: int, ranks: Ranks
) -> Bool[Tensor, "batch d_sae"]:
    """Return which pre-activations are among the `num` largest of all ranks.

    `num` is k times the rows of all ranks. Of equal entries the first are taken, rank
    by rank, so what is kept is what `selection.largest_in_batch` keeps of the whole
    batch: each rank has k times its rows at or above its own cut, so all that can be
    kept lies at or above the lowest of these cuts, and only that is sent.
    """
    flat = pre_acts.flatten()
    own = flat.index_select(0, selection.largest_in_batch(pre_acts, k * len(pre_acts)))
    # What is not finite leaves fewer, or none; that is for the loss to tell.
    floor = ranks.least(torch.cat([own, own.new_full((1,), torch.inf)]).min())
    places = selection.true_places(flat >= floor)
    candidates = flat.index_select(0, places)
    pieces = ranks.gathered(candidates)
    values = torch.cat(pieces)
    is_whole = len(values) >= num
    cut = values.topk(num, sorted=False).values.min() if is_whole else floor
    earlier = sum(int((piece == cut).sum()) for piece in pieces[: ranks.rank])
    room = num - int((values > cut).sum()) - earlier
    equal = candidates == cut
    kept = places[(candidates > cut) | (equal & (equal.cumsum(0) <= room))]
    is_kept = torch.zeros_like(flat, dtype=torch.bool).index_fill_(0, kept, True)
    return is_kept.view_as(pre_acts)


# `Any` below: the context is torch's own, which has no type for saved attributes.


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        grad: Tensor = grads[0]
        return grad
