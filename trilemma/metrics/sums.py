"""Sums over entries that come out the same, to the bit, each time they are made."""

from jaxtyping import Int64, Shaped
from torch import Tensor


def add_at(
    sums: Shaped[Tensor, "place *column"],
    places: Int64[Tensor, " entry"],
    values: Shaped[Tensor, "entry *column"],
) -> None:
    """Add each value to its place, in the order of the entries.

    So batches leave no trace in the bits. On a GPU `index_add_` adds in any order;
    `index_put_` sorts the places first, and what falls on one is added in order.
    """
    if sums.is_cuda:
        sums.index_put_((places,), values, accumulate=True)
    else:
        sums.index_add_(0, places, values)
