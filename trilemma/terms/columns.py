"""A code latent by latent: what its entries come to over the rows of a batch."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from trilemma.codes import Code


class Extremes(NamedTuple):
    """The activations of each latent over all rows, those of no pair being zero."""

    smallest: Float[Tensor, "d_sae"]
    largest: Float[Tensor, "d_sae"]


def sums(values: Tensor, code: Code, d_sae: int) -> Float[Tensor, "d_sae"]:
    """Return the sum of each latent's values, one for each entry of the code."""
    if code.support is None:
        return values.sum(0)
    return values.new_zeros(d_sae).index_add(0, code.support.columns, values)


def weighted_sums(
    values: Tensor, table: Float[Tensor, "batch width"], code: Code
) -> Float[Tensor, "d_sae width"]:
    """Return, for each latent, the sum over rows of value times table row."""
    if code.support is None:
        return values.t() @ table
    return functional.embedding_bag(
        code.support.rows_by_column,
        table,
        code.support.column_starts,
        mode="sum",
        per_sample_weights=values.index_select(0, code.support.by_column),
    )


def spread(per_latent: Float[Tensor, "d_sae"], code: Code) -> Tensor:
    """Return what each entry's latent has, in a shape that fits the entries."""
    if code.support is None:
        return per_latent
    return per_latent.index_select(0, code.support.columns)


@torch.no_grad()
def extremes(code: Code, d_sae: int, *, batch: int) -> Extremes:
    """Return the smallest and the largest activation of each latent."""
    acts = code.acts.float()
    if code.support is None:
        return Extremes(*acts.aminmax(dim=0))
    columns = code.support.columns
    zeros = acts.new_zeros(d_sae)
    largest = zeros.scatter_reduce(0, columns, acts, "amax")
    lowest = (zeros + torch.inf).scatter_reduce(0, columns, acts, "amin")
    is_everywhere = torch.bincount(columns, minlength=d_sae) == batch
    return Extremes(torch.where(is_everywhere, lowest, 0.0), largest)
