"""Sums over the pairs of a sparse code: by Triton on CUDA, else by PyTorch's own."""

import importlib.util

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

# PyTorch for CUDA brings Triton along; the CPU's does not.
HAS_TRITON = importlib.util.find_spec("triton") is not None
if HAS_TRITON:
    from trilemma import triton_kernels


def bag_sums(
    places: Int64[Tensor, "num"],
    table: Float[Tensor, "rows d_in"],
    starts: Int64[Tensor, "bags"],
    weights: Float[Tensor, "num"],
) -> Float[Tensor, "bags d_in"]:
    """Return, for each bag of consecutive pairs, the sum of weight times table row."""
    if table.is_cuda and HAS_TRITON:
        return triton_kernels.bag_sums(places, table.contiguous(), starts, weights)
    return functional.embedding_bag(
        places, table, starts, mode="sum", per_sample_weights=weights
    )


def pair_dots(
    left: Float[Tensor, "rows d_in"],
    right: Float[Tensor, "others d_in"],
    *,
    left_places: Int64[Tensor, "num"],
    right_places: Int64[Tensor, "num"],
    starts: Int64[Tensor, "rows"],
) -> Float[Tensor, "num"]:
    """Return the inner product of each pair's rows of the two tables.

    Pairs are sorted by their left row; `starts` says where each row's begin.
    """
    if left.is_cuda and HAS_TRITON:
        tables = (left.contiguous(), right.contiguous())
        return triton_kernels.pair_dots(*tables, left_places, right_places)
    # The operator behind embedding_bag's own backward: each pair's dot product
    # without a copy of the rows (mode 0 is "sum"; -1: there is no padding index).
    result: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left.contiguous(), right, right_places, starts, left_places, 0, -1
    )
    return result
