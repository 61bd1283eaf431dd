"""Activations of a chunk: masks, checks, statistics, what the store keeps."""

import numpy as np
import pytest
import torch

from trilemma import harvest
from trilemma.sequences import MASK_FIRST, MASK_SPECIAL

HOOKS = ("blocks.0.hook_resid_post", "blocks.2.hook_resid_post")


class BrokenLM:
    """Gives infinity at one place."""

    def activations(self, tokens, hooks):
        x = torch.zeros(*tokens.shape, 4)
        x[tokens == 7] = torch.inf
        return {hook: x.clone() for hook in hooks}


def rows(count: int, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, generator=generator) * 3 + 100


def no_mask(count: int) -> np.ndarray:
    return np.zeros(count, dtype=np.uint8)


def test_mask_tells_special_tokens_and_first_positions():
    tokens = np.array([[5, 0, 5, 9], [0, 5, 5, 5]], dtype=np.int32)
    mask = harvest.mask_rows(tokens, frozenset({0, 9}))
    expected = [
        [MASK_FIRST, MASK_SPECIAL, 0, MASK_SPECIAL],
        [MASK_FIRST | MASK_SPECIAL, 0, 0, 0],
    ]
    assert mask.dtype == np.uint8
    assert mask.tolist() == expected


def test_chunk_holds_the_activations_in_the_order_of_the_tokens(tiny_lm):
    tokens = np.arange(7 * 16, dtype=np.int32).reshape(7, 16)
    chunk = harvest.harvest_chunk(tiny_lm, tokens, HOOKS, batch_seqs=3)
    for hook in HOOKS:
        alone = tiny_lm.activations(torch.from_numpy(tokens[4:5]), [hook])[hook][0]
        assert chunk[hook].shape == (7 * 16, 32)
        torch.testing.assert_close(chunk[hook][4 * 16 : 5 * 16], alone)


def test_chunk_is_repeatable_to_the_bit(tiny_lm):
    tokens = np.arange(4 * 16, dtype=np.int32).reshape(4, 16)
    first, second = (
        harvest.harvest_chunk(tiny_lm, tokens, HOOKS, batch_seqs=2) for _ in range(2)
    )
    assert all(torch.equal(first[hook], second[hook]) for hook in HOOKS)


def test_an_infinite_activation_names_hook_and_row():
    tokens = np.zeros((4, 8), dtype=np.int32)
    tokens[2, 3] = 7
    with pytest.raises(harvest.NonFiniteError) as error:
        harvest.harvest_chunk(BrokenLM(), tokens, HOOKS, batch_seqs=1)
    assert (error.value.hook, error.value.row) == (HOOKS[0], 2 * 8 + 3)
    assert str(error.value) == (
        "harvest: blocks.0.hook_resid_post is not finite at row 19 of the chunk; run "
        "the LM in another dtype (harvest.lm_dtype)"
    )


def test_statistics_of_chunks_join_to_those_of_the_whole():
    x = rows(1000)
    mask = no_mask(1000)
    mask[::7] = MASK_SPECIAL
    parts = [
        harvest.chunk_statistics(x[start:stop], mask[start:stop])
        for start, stop in ((0, 10), (10, 600), (600, 1000))
    ]
    found = harvest.reduce_statistics(parts)
    kept = x.double().numpy()[mask == 0]
    assert found.count == len(kept)
    np.testing.assert_allclose(found.mean, kept.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.variance, kept.var(0), rtol=1e-12)
    norms = (kept**2).sum(1)
    assert found.mean_squared_norm == pytest.approx(norms.mean(), rel=1e-12)
    assert found.max_abs == np.abs(kept).max()


def test_a_chunk_that_is_wholly_masked_counts_for_nothing():
    x = rows(20)
    masked = harvest.chunk_statistics(x, np.full(20, MASK_FIRST, dtype=np.uint8))
    whole = harvest.chunk_statistics(x, no_mask(20))
    found = harvest.reduce_statistics([masked, whole, masked])
    assert found.count == 20
    assert torch.equal(found.mean, whole.mean)


def test_a_store_that_is_wholly_masked_is_refused():
    masked = harvest.chunk_statistics(rows(5), np.ones(5, dtype=np.uint8))
    with pytest.raises(ValueError, match=r"^harvest: every row is masked"):
        harvest.reduce_statistics([masked, masked])


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [("float32", np.float32), ("float16", np.float16), ("bfloat16", np.uint16)],
)
def test_the_store_keeps_the_dtype_asked_for(dtype, kept):
    x = rows(8)
    stored = harvest.to_store(x, dtype)
    assert stored.dtype == kept
    read = torch.from_numpy(stored).view(getattr(torch, dtype))
    assert torch.equal(read, x.to(getattr(torch, dtype)))


def test_overflow_of_float16_names_the_row():
    x = rows(8)
    x[5, 2] = -70_000
    with pytest.raises(ValueError) as error:
        harvest.to_store(x, "float16")
    assert str(error.value) == (
        "store.dtype: float16 cannot hold the 70,000 in row 5 of the chunk; use "
        "bfloat16 or float32"
    )


def test_high_norm_rows_are_told_by_the_median_of_unmasked_rows():
    norm = np.array([1, 1, 1, 50, 9, 100, 100, 100, 100], dtype=np.float32)
    mask = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1], dtype=np.uint8)
    found = harvest.high_norm_rows(norm, mask, 10.0)
    assert found.tolist() == [False, False, False, True, False, True, True, True, True]


def test_no_row_is_of_high_norm_where_all_are_masked():
    assert not harvest.high_norm_rows(np.ones(3), np.ones(3, np.uint8), 10.0).any()


def test_norm_quantiles_are_those_of_unmasked_rows():
    norm = np.arange(101, dtype=np.float32)
    mask = no_mask(101)
    mask[51:] = MASK_SPECIAL
    found = harvest.norm_quantiles(norm, mask)
    assert found["norm_q50"] == 25
