"""Tests of the rate: entropies known in closed form, and the width that is chosen."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trilemma.metrics.code_samples import (
    binary_entropy,
    codes_of,
    sparse_acts,
)
from trilemma.config.stages import Evaluation
from trilemma.metrics import rate, rates
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.tally import Sample


def mean_bits(acts: Tensor, width: float) -> float:
    codes = codes_of(acts)
    return float(rate.code_length(codes, rate.symbols(codes, width)).bits.mean())


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


def test_equally_likely_levels_cost_their_logarithm() -> None:
    levels = torch.arange(4000) % 16
    assert mean_bits((levels[:, None] + 0.5) * 0.25, 0.25) == pytest.approx(4)


def test_geometric_levels_cost_the_geometric_entropy() -> None:
    p, num_rows = 0.5, 1 << 14
    counts = [num_rows >> (level + 1) for level in range(14)]
    levels = torch.repeat_interleave(torch.arange(14), torch.tensor(counts))
    found = mean_bits((levels[:, None] + 0.5).float(), 1.0)
    # The entropy of a geometric variable is H_b(p) / p; the tail here is cut.
    assert found == pytest.approx(float(binary_entropy(torch.tensor(p))) / p, abs=2e-3)


def test_the_bits_of_latents_sum_to_those_of_rows() -> None:
    codes = codes_of(sparse_acts(3000, 9, 0.2))
    found = rate.code_length(codes, rate.symbols(codes, 0.1))
    assert found.latent_bits.sum() == pytest.approx(found.bits.mean(), rel=1e-12)


def test_the_correction_brings_small_samples_nearer_to_the_truth() -> None:
    truth = 20 * (0.5 * np.log2(20) + 1)
    plain, corrected = [], []
    generator = torch.Generator().manual_seed(4)
    for _ in range(20):
        level = torch.randint(20, (200, 20), generator=generator) + 0.5
        acts = level * (torch.rand(200, 20, generator=generator) < 0.5)
        codes = codes_of(acts)
        found = rate.code_length(codes, rate.symbols(codes, 1.0))
        plain.append(float(found.bits.mean()))
        corrected.append(plain[-1] + found.miller_madow_bits)
    assert np.mean(plain) < truth
    assert abs(np.mean(corrected) - truth) < 0.1 * (truth - np.mean(plain))


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


def test_one_bin_holds_all_where_no_probe_fires() -> None:
    acts = sparse_acts(500, 4, 0.2) * (torch.arange(500) >= 100)[:, None]
    probes = rate.Probes(np.arange(100), torch.ones(100, 4), squared_deviation=1.0)
    codes = codes_of(acts)
    width = rate.bin_width(codes, probes, torch.eye(4), tolerance=0.01)
    expected = binary_entropy((acts > 0).double().mean(0)).sum()
    found = rate.code_length(codes, rate.symbols(codes, width)).bits.mean()
    assert found == pytest.approx(float(expected), rel=1e-12)


def test_every_rate_has_a_value_where_no_probe_fires() -> None:
    acts = sparse_acts(500, 4, 0.2) * (torch.arange(500) >= 100)[:, None]
    probes = rate.Probes(np.arange(100), torch.ones(100, 4), squared_deviation=1.0)
    known = Scalar(
        0.5, None, None, n=500, unit="1", method="", metric_version=1, seed=None
    )
    found = rates.measure(
        Sample(codes_of(acts), probes),
        torch.eye(4),
        Evaluation(num_resamples=50),
        fvu=known,
        l0=known,
        ce_rise=lambda width: 0.0,
        parents=None,
    ).metrics
    support = float(binary_entropy((acts > 0).double().mean(0)).sum())
    for name in ("rate_bits", "rate_bits_per_latent", "rate_bits_ce"):
        assert found[name].value == pytest.approx(support), name
    assert "of an fvu of 0.0001 at least" in found["rate_bits"].method


def test_a_perfect_reconstruction_still_has_a_finite_rate() -> None:
    acts = sparse_acts(500, 4, 0.2)
    total = float(acts.square().sum())
    probes = rate.Probes(np.arange(500), torch.zeros(500, 4), squared_deviation=total)
    width = rate.bin_width(codes_of(acts), probes, torch.eye(4), tolerance=0.01)
    assert width is not None and 1e-4 < width < 0.1


def test_rows_that_do_not_vary_and_lose_nothing_cost_nothing() -> None:
    acts = torch.tensor([[1.0, 0, 2]]).expand(50, -1).contiguous()
    probes = rate.Probes(np.arange(50), torch.zeros(50, 3), squared_deviation=0.0)
    codes = codes_of(acts)
    width = rate.bin_width(codes, probes, torch.eye(3), tolerance=0.01)
    assert width is not None and width > 0
    assert rate.code_length(codes, rate.symbols(codes, width)).bits.sum() == 0
