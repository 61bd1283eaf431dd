"""Triton's kernels give what PyTorch's operators give; on a CPU by its interpreter.

TRITON_INTERPRET=1 python -m pytest tests/trilemma/test_triton_kernels.py
"""

import os

import pytest
import torch
from torch import Tensor

from trilemma import codes, sparse_products

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = pytest.mark.skipif(
    not sparse_products.HAS_TRITON or not (IS_INTERPRETED or torch.cuda.is_available()),
    reason="Triton, and a GPU or TRITON_INTERPRET=1, are not here",
)
DEVICE = "cpu" if IS_INTERPRETED else "cuda"
# Below, at and above what a program takes at once; more pairs than latents, and fewer.
SIZES = [(3, 5, 20, 2), (9, 128, 17, 16), (40, 150, 30, 5)]


def drawn(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(DEVICE)


@pytest.fixture(params=["topk", "where"])
def code(request, size):
    """Return a code's pairs, some latents without any, their values, and tables."""
    batch, d_in, d_sae, k = size
    pre_acts = drawn(batch, d_sae, seed=0)
    pre_acts[:, ::4] = -9.0
    pre_acts[1] = -9.0 if request.param == "where" else pre_acts[1]
    pairs = (
        codes.topk(pre_acts, k)
        if request.param == "topk"
        else (codes.where(pre_acts > 0.3))
    )
    values = drawn(len(pairs.columns), seed=1)
    return pairs, values, drawn(d_sae, d_in, seed=2), drawn(batch, d_in, seed=3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decoding_equals_pytorchs(code, dtype):
    pairs, values, W_dec, _ = code
    W_dec, values = W_dec.to(dtype), values.to(dtype)
    found = kernels().bag_sums(pairs.columns, W_dec, pairs.row_starts, values)
    wanted = torch.zeros_like(found).index_add_(
        0, pairs.rows, values.float()[:, None] * W_dec.float()[pairs.columns]
    )
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_the_gradient_of_weights_equals_pytorchs(code):
    pairs, values, W_dec, grad = code
    weights = values.index_select(0, pairs.by_column)
    found = kernels().bag_sums(pairs.rows_by_column, grad, pairs.column_starts, weights)
    wanted = torch.zeros_like(W_dec).index_add_(
        0, pairs.columns, values[:, None] * grad[pairs.rows]
    )
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_the_gradient_of_values_equals_pytorchs(code):
    pairs, _, W_dec, grad = code
    found = kernels().pair_dots(grad, W_dec, pairs.rows, pairs.columns)
    wanted = (grad[pairs.rows] * W_dec[pairs.columns]).sum(1)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_no_pairs_at_all_decode_to_nothing():
    none = codes.where(torch.zeros(4, 6, dtype=torch.bool, device=DEVICE))
    W_dec, values = drawn(6, 8, seed=0), drawn(0, seed=0)
    sums = kernels().bag_sums(none.columns, W_dec, none.row_starts, values)
    assert torch.equal(sums, torch.zeros_like(sums))
    dots = kernels().pair_dots(sums, W_dec, none.rows, none.columns)
    assert dots.shape == (0,)


def kernels():
    return sparse_products.triton_kernels
