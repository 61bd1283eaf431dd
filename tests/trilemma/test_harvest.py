"""Rows of activations: masks, batches, norms, checks, what the store keeps."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from trilemma import harvest
from trilemma.lm import LM
from trilemma.sequences import MASK_FIRST, MASK_PADDING, MASK_SPECIAL

HOOKS = ("blocks.0.hook_resid_post", "blocks.2.hook_resid_post")
LARGEST = torch.finfo(torch.float32).max


def rows(count: int, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, generator=generator) * 3 + 100


def test_mask_tells_special_tokens_and_first_positions():
    tokens = np.array([[5, 0, 5, 9], [0, 5, 5, 5]], dtype=np.int32)
    mask = harvest.mask_rows(tokens, frozenset({0, 9}), None)
    expected = [
        [MASK_FIRST, MASK_SPECIAL, 0, MASK_SPECIAL],
        [MASK_FIRST | MASK_SPECIAL, 0, 0, 0],
    ]
    assert mask.dtype == np.uint8
    assert mask.tolist() == expected


def test_mask_tells_padding():
    tokens = np.array([[5, 9, 7, 7]], dtype=np.int32)
    mask = harvest.mask_rows(tokens, frozenset({7}), 7)
    both = MASK_SPECIAL | MASK_PADDING
    assert mask.tolist() == [[MASK_FIRST, 0, both, both]]


def test_batches_hold_the_activations_in_the_order_of_the_tokens(tiny_lm):
    tokens = np.arange(7 * 16, dtype=np.int32).reshape(7, 16)
    found = list(harvest.batches(tiny_lm, tokens, HOOKS, batch_seqs=3))
    assert [len(batch[HOOKS[0]]) for batch in found] == [48, 48, 16]
    for hook in HOOKS:
        x = torch.cat([batch[hook] for batch in found])
        alone = tiny_lm.activations(torch.from_numpy(tokens[4:5]), [hook])[hook][0]
        torch.testing.assert_close(x[4 * 16 : 5 * 16], alone)


def test_batches_are_repeatable_to_the_bit(tiny_lm):
    tokens = np.arange(4 * 16, dtype=np.int32).reshape(4, 16)
    first, second = (
        list(harvest.batches(tiny_lm, tokens, HOOKS, batch_seqs=2)) for _ in range(2)
    )
    for left, right in zip(first, second, strict=True):
        assert all(torch.equal(left[hook], right[hook]) for hook in HOOKS)


def test_an_lm_that_overflows_its_dtype_names_hook_and_row(trained, tmp_path):
    folder = tmp_path / "doctored"
    shutil.copytree(trained.folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights["gpt_neox.embed_in.weight"][7] *= 1e8
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    lm = LM.load(
        folder,
        dtype=torch.float16,
        device="cpu",
        processing="none",
        attention="sdpa",
    )
    tokens = np.full((2, 8), 5, dtype=np.int32)
    tokens[1, 0] = 7
    (batch,) = harvest.batches(lm, tokens, HOOKS, batch_seqs=2)
    with pytest.raises(harvest.NonFiniteError) as error:
        harvest.check_finite(harvest.norms(batch[HOOKS[0]]), HOOKS[0])
    assert (error.value.hook, error.value.row) == (HOOKS[0], 8)
    assert str(error.value) == (
        "harvest: blocks.0.hook_resid_post is not finite at row 8 of the chunk; run "
        "the LM in another dtype (harvest.lm_dtype), or make its cache again"
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_is_found_in_what_is_stored(dtype, value):
    x = rows(8)
    x[5, 2] = value
    stored = harvest.to_store(x, dtype)
    seen = stored.values.float()
    if stored.scale is not None:
        seen *= stored.scale[:, None]
    with pytest.raises(harvest.NonFiniteError, match="row 5 of the chunk"):
        harvest.check_finite(harvest.norms(seen), HOOKS[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(50, 6), (2000, 700)])
def test_norms_are_those_of_float64_in_float32(dtype, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    norm = harvest.norms(x)
    assert norm.dtype == torch.float32
    torch.testing.assert_close(norm, x.double().norm(dim=1).float())


def test_a_finite_row_whose_square_overflows_has_a_finite_norm():
    x = rows(4)
    x[1, 0], x[2] = 1e30, LARGEST
    norm = harvest.norms(x)
    harvest.check_finite(norm, HOOKS[0])
    assert norm[1] == pytest.approx(1e30)
    assert norm[2] == LARGEST
    assert torch.equal(norm[[0, 3]], harvest.norms(x[[0, 3]]))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_store_keeps_the_dtype_asked_for(dtype):
    with torch.inference_mode():
        x = rows(8)
    stored = harvest.to_store(x, dtype)
    assert stored.scale is None
    assert torch.equal(stored.values, x.to(getattr(torch, dtype)))
    error = (x.double() - stored.values.double()).square().sum(1)
    torch.testing.assert_close(stored.squared_error, error)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_nothing_is_lost_in_a_wider_dtype(dtype):
    stored = harvest.to_store(rows(8).to(getattr(torch, dtype)), "float32")
    assert stored.values.dtype == torch.float32
    assert not stored.squared_error.any()


@given(
    st.lists(
        st.floats(-(2.0**100), 2.0**100, width=32) | st.just(0.0),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_int8_is_off_by_half_a_step_at_most(row, dtype):
    x = torch.tensor([row, [0.0] * len(row)]).to(dtype)
    stored = harvest.to_store(x, "int8")
    assert stored.values.dtype == torch.int8 and stored.scale is not None
    assert stored.scale[1] == 1 and not stored.values[1].any()
    seen = (stored.values * stored.scale[:, None]).double()
    step = stored.scale.double()[:, None]
    assert ((x.double() - seen).abs() <= 0.5001 * step).all()
    error = (x.double() - seen).square().sum(1)
    torch.testing.assert_close(stored.squared_error, error, rtol=1e-5, atol=1e-30)


def test_int8_rounds_half_to_even():
    stored = harvest.to_store(torch.tensor([[127.0, 0.5, 1.5, -2.5]]), "int8")
    assert stored.values.tolist() == [[127, 0, 2, -2]]


def test_overflow_of_float16_names_the_row():
    x = rows(8)
    x[5, 2] = -70_000
    with pytest.raises(harvest.RowError) as error:
        harvest.to_store(x, "float16")
    assert str(error.value) == (
        "store.dtype: float16 cannot hold the 70,000 in row 5 of the chunk; use "
        "bfloat16 or float32"
    )
