"""Statistics of chunks against float64, quantiles against NumPy."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from trilemma import statistics
from trilemma.sequences import MASK_FIRST, MASK_HIGH_NORM, MASK_SPECIAL
from trilemma.statistics import ChunkStatistics


def rows(count: int, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, generator=generator) * 3 + 100


def no_mask(count: int) -> np.ndarray:
    return np.zeros(count, dtype=np.uint8)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 3000),
    d_in=st.sampled_from([1, 5, 700]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    masked=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
)
def test_statistics_are_those_of_float64(seed, count, d_in, dtype, masked):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, d_in, generator=generator)
    x[:, 0] += 1000
    x[:, -1] *= 100
    x[:, d_in // 2] += 30 * torch.arange(count) / count
    if dtype == torch.float16:
        x /= 100
    x = x.to(dtype)
    mask = (torch.rand(count, generator=generator) < masked).numpy().astype(np.uint8)
    x[mask != 0] *= 50
    found = statistics.chunk_statistics(x, mask)
    kept = x.double().numpy()[mask == 0]
    assert found.count == len(kept)
    if len(kept) == 0:
        return
    variance = kept.var(0)
    floor = (1e-7 * np.abs(kept).max(0)) ** 2
    mean, m2 = found.mean.numpy(), found.m2.numpy()
    assert (np.abs(mean - kept.mean(0)) <= 1e-6 * np.sqrt(variance + floor)).all()
    assert (np.abs(m2 / len(kept) - variance) <= 1e-5 * variance + floor).all()
    norms = (kept**2).sum(1)
    assert found.mean_squared_norm == pytest.approx(norms.mean(), rel=1e-6)
    assert found.max_abs == np.abs(kept).max()


def test_a_dimension_that_never_varies_has_no_variance():
    found = statistics.chunk_statistics(torch.full((5000, 3), 0.1), no_mask(5000))
    assert found.mean.tolist() == pytest.approx([np.float32(0.1)] * 3, rel=1e-12)
    assert (found.m2 >= 0).all() and found.m2.max() < 1e-12


def test_a_dimension_that_drifts_from_block_to_block_keeps_its_digits():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2048, 1024, generator=generator) * 0.01
    x[1024:] += 1000
    found = statistics.chunk_statistics(x[1024:], no_mask(1024))
    kept = x[1024:].double().numpy()
    np.testing.assert_allclose(found.m2 / 1024, kept.var(0), rtol=1e-5)
    whole = statistics.chunk_statistics(x, no_mask(2048))
    np.testing.assert_allclose(whole.m2 / 2048, x.double().numpy().var(0), rtol=1e-5)


def test_squares_that_overflow_float32_are_summed_in_float64():
    x = rows(100) * 1e25
    found = statistics.chunk_statistics(x, no_mask(100))
    kept = x.double().numpy()
    np.testing.assert_allclose(found.m2 / 100, kept.var(0), rtol=1e-5)


def test_what_is_masked_leaves_no_trace():
    x, mask = rows(500), no_mask(500)
    mask[::7] = MASK_SPECIAL
    expected = statistics.chunk_statistics(x, mask).as_record()
    x[::7] = 1e30
    assert statistics.chunk_statistics(x, mask).as_record() == expected


def test_activations_of_inference_mode_are_summed_and_left_alone():
    with torch.inference_mode():
        x = rows(50)
    before = x.clone()
    found = statistics.chunk_statistics(x, no_mask(50)).as_record()
    assert torch.equal(x, before)
    assert found == statistics.chunk_statistics(rows(50), no_mask(50)).as_record()


def test_a_record_survives_json_to_the_bit():
    found = statistics.chunk_statistics(rows(333), no_mask(333))
    record = json.loads(json.dumps(found.as_record()))
    again = ChunkStatistics.from_record(record)
    assert torch.equal(again.mean, found.mean) and torch.equal(again.m2, found.m2)
    assert again.as_record() == found.as_record()


def test_statistics_of_chunks_join_to_those_of_the_whole():
    x = rows(1000)
    mask = no_mask(1000)
    mask[::7] = MASK_SPECIAL
    parts = [
        statistics.chunk_statistics(x[start:stop], mask[start:stop])
        for start, stop in ((0, 10), (10, 600), (600, 1000))
    ]
    found = statistics.reduce_statistics(parts)
    kept = x.double().numpy()[mask == 0]
    assert found.count == len(kept)
    np.testing.assert_allclose(found.mean, kept.mean(0), rtol=1e-9)
    np.testing.assert_allclose(found.variance, kept.var(0), rtol=1e-6)
    norms = (kept**2).sum(1)
    assert found.mean_squared_norm == pytest.approx(norms.mean(), rel=1e-9)
    assert found.max_abs == np.abs(kept).max()


def test_a_chunk_that_is_wholly_masked_counts_for_nothing():
    x = rows(20)
    masked = statistics.chunk_statistics(x, np.full(20, MASK_FIRST, dtype=np.uint8))
    whole = statistics.chunk_statistics(x, no_mask(20))
    found = statistics.reduce_statistics([masked, whole, masked])
    assert (masked.count, found.count) == (0, 20)
    assert torch.equal(found.mean, whole.mean)


def test_a_store_that_is_wholly_masked_is_refused():
    masked = statistics.chunk_statistics(rows(5), np.ones(5, dtype=np.uint8))
    for call in (
        lambda: statistics.reduce_statistics([masked, masked]),
        lambda: statistics.norm_order(lambda: [{"h": np.zeros(0, np.float32)}], [0.5]),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value) == (
            "harvest: every row is masked; name a corpus with more than special tokens"
        )


def test_high_norm_rows_are_told_by_the_median_of_unmasked_rows_of_any_hook():
    first = torch.tensor([1.0, 1, 1, 50, 9, 100, 1, 1, 1])
    second = torch.tensor([1.0, 11, 1, 1, 1, 1, 1, 1, 1])
    mask = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1], dtype=np.uint8)
    found = statistics.chunk_mask({"first": first, "second": second}, mask, 10.0)
    high = MASK_HIGH_NORM
    assert found.tolist() == [0, high, 0, high, 0, 1 | high, 1, 1, 1]
    assert mask.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]


def test_no_row_is_of_high_norm_where_all_are_masked():
    mask = np.ones(3, np.uint8)
    found = statistics.chunk_mask({"hook": torch.tensor([1.0, 1, 99])}, mask, 10.0)
    assert found.tolist() == mask.tolist()


def test_a_norm_is_compared_in_float64():
    norm = np.array([0.1], dtype=np.float32)
    median = float(np.float32(0.1))
    assert not statistics.high_norm_rows(norm, median=median, ratio=1.0).any()
    assert statistics.high_norm_rows(norm, median=median, ratio=1 - 1e-12).all()


@given(
    norm=st_np.arrays(
        np.float32,
        st.integers(1, 200),
        elements=st.floats(0, 2.0**127, width=32)
        | st.sampled_from([0.0, 1.0, 1.0000001, 65_504.0]),
    ),
    quantiles=st.lists(st.floats(0, 1), min_size=1, max_size=5),
    size=st.integers(1, 50),
)
def test_quantiles_of_norms_are_numpys(norm, quantiles, size):
    def blocks():
        return (norm[start : start + size] for start in range(0, len(norm), size))

    found = statistics.norm_order(
        lambda: ({"h": block} for block in blocks()), quantiles
    )["h"]
    expected = np.quantile(np.abs(norm).astype(np.float64), quantiles)
    assert found == expected.tolist()
