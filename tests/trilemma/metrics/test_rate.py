"""Tests of the rate: entropies known in closed form, and the width that is chosen."""

import numpy as np
import pytest
import torch
from torch import Tensor

from trilemma.metrics import rate


def codes_of(acts: Tensor) -> rate.Codes:
    row, latent = acts.nonzero(as_tuple=True)
    return rate.Codes(
        document=np.zeros(len(acts), dtype=np.int64),
        row=row.numpy(),
        latent=latent.numpy(),
        value=acts[row, latent].numpy(),
        d_sae=acts.shape[1],
    )


def mean_bits(acts: Tensor, width: float) -> float:
    codes = codes_of(acts)
    return float(rate.code_length(codes, rate.symbols(codes, width)).bits.mean())


def binary_entropy(p: Tensor) -> Tensor:
    return -(p * p.log2() + (1 - p) * (1 - p).log2())


def sparse_acts(num_rows: int, d_sae: int, density: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(num_rows, d_sae, generator=generator) + 0.5
    return values * (torch.rand(num_rows, d_sae, generator=generator) < density)


def test_a_binary_code_costs_the_sum_of_its_binary_entropies() -> None:
    acts = (sparse_acts(4000, 12, 0.1) > 0).float()
    expected = binary_entropy(acts.double().mean(0)).sum()
    assert mean_bits(acts, 0.3) == pytest.approx(float(expected), rel=1e-12)


def test_the_entropy_splits_into_firing_and_amplitude_given_firing() -> None:
    acts = sparse_acts(4000, 1, 0.2)
    p = (acts > 0).double().mean()
    levels = rate.levels(acts[acts > 0].double(), 0.25)
    share = torch.bincount(levels.long()).double() / len(levels)
    given = -(share[share > 0] * share[share > 0].log2()).sum()
    expected = binary_entropy(p) + p * given
    assert mean_bits(acts, 0.25) == pytest.approx(float(expected), rel=1e-12)


def test_a_latent_that_always_fires_alike_costs_nothing() -> None:
    assert mean_bits(torch.ones(50, 3), 0.4) == 0


def test_a_silent_code_costs_nothing() -> None:
    codes = codes_of(torch.zeros(10, 3))
    assert rate.code_length(codes, rate.symbols(codes, None)).bits.tolist() == [0] * 10


def test_the_names_of_symbols_do_not_change_the_rate() -> None:
    codes = codes_of(sparse_acts(1000, 5, 0.2))
    symbol = rate.symbols(codes, 0.1)
    few = rate.code_length(codes, symbol)
    many = rate.code_length(codes, symbol * 10_000_000)
    assert np.array_equal(few.bits, many.bits)
    assert few.miller_madow_bits == many.miller_madow_bits


def test_the_correction_counts_the_symbols_of_each_latent() -> None:
    acts = torch.tensor([[0.0, 1], [1, 1], [2, 1], [0, 1]])
    codes = codes_of(acts)
    found = rate.code_length(codes, rate.symbols(codes, 0.5))
    assert found.miller_madow_bits == pytest.approx(2 / (2 * 4 * np.log(2)))


def test_a_finer_code_costs_more() -> None:
    acts = sparse_acts(4000, 8, 0.1)
    assert mean_bits(acts, 0.05) > mean_bits(acts, 0.2)


def rise(acts: Tensor, W_dec: Tensor, error: Tensor, width: float) -> float:
    level = rate.levels(acts.double(), width)
    quantised = torch.where(acts > 0, rate.midpoints(level, width), 0.0)
    moved = error.double() - (quantised - acts) @ W_dec.double()
    return float(moved.square().sum() / error.double().square().sum()) - 1


def test_the_chosen_width_is_the_largest_that_keeps_within_the_tolerance() -> None:
    generator = torch.Generator().manual_seed(1)
    acts = sparse_acts(3000, 32, 0.1)
    W_dec = torch.nn.functional.normalize(torch.randn(32, 16, generator=generator))
    error = 0.3 * torch.randn(3000, 16, generator=generator)
    probe = np.arange(0, 3000, 3)
    probes = rate.Probes(row=probe, error=error[probe], squared_deviation=1e4)
    width = rate.bin_width(codes_of(acts), probes, W_dec, tolerance=0.01)
    assert width is not None
    assert rise(acts[probe], W_dec, error[probe], width) <= 0.01 + 1e-6
    assert rise(acts[probe], W_dec, error[probe], width * 1.01) > 0.01


def test_a_code_that_never_fires_has_no_width() -> None:
    probes = rate.Probes(np.arange(10), torch.ones(10, 2), squared_deviation=1.0)
    found = rate.bin_width(
        codes_of(torch.zeros(10, 3)), probes, torch.ones(3, 2), tolerance=0.01
    )
    assert found is None


def test_a_perfect_reconstruction_still_has_a_finite_rate() -> None:
    acts = sparse_acts(500, 4, 0.2)
    total = float(acts.square().sum())
    probes = rate.Probes(np.arange(500), torch.zeros(500, 4), squared_deviation=total)
    width = rate.bin_width(codes_of(acts), probes, torch.eye(4), tolerance=0.01)
    assert width is not None and 1e-4 < width < 0.1
