"""The nonzero activations of some rows: what a code is when its zeros are not kept."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from trilemma import selection, sparse_products


class Entries(NamedTuple):
    """Nonzero activations, by row and within a row by latent, both increasing."""

    row: Int64[Tensor, " entry"]
    latent: Int64[Tensor, " entry"]
    value: Float[Tensor, " entry"]


def of(acts: Float[Tensor, "row d_sae"]) -> Entries:
    """Return the nonzero entries of a dense code."""
    flat = selection.true_places((acts != 0).flatten())
    row = flat // acts.shape[1]
    value = acts.flatten().index_select(0, flat)
    return Entries(row, flat - row * acts.shape[1], value)


def of_topk(pre_acts: Float[Tensor, "row d_sae"], k: int) -> Entries:
    """Return the positive ones among the k largest pre-activations of each row."""
    latent = selection.largest_in_rows(pre_acts, k).sort(1).values
    value = pre_acts.gather(1, latent)
    row, place = (value > 0).nonzero(as_tuple=True)
    return Entries(row, latent[row, place], value[row, place])


def decode(
    entries: Entries, W_dec: Float[Tensor, "d_sae d_in"], *, num_rows: int
) -> Float[Tensor, "row d_in"]:
    """Return the sum over each row's entries of value times decoder row."""
    rows = torch.arange(num_rows, device=W_dec.device)
    starts = torch.searchsorted(entries.row, rows)
    return sparse_products.bag_sums(entries.latent, W_dec, starts, entries.value)
