"""Tests of greedy bit allocation against the common bin width."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trilemma.metrics.code_samples import (
    codes_of,
    probes_of,
    sparse_acts,
    unit_rows,
)
from trilemma.metrics import bit_allocation, rate

TOLERANCE = 0.05


def bits_and_rise(
    acts: Tensor, W_dec: Tensor, *, noise: float
) -> tuple[tuple[float, float], tuple[float, float], float]:
    """Return bits and rise at one width and at many, and the rise allowed."""
    codes, probes = codes_of(acts), probes_of(acts, W_dec, noise=noise)
    trial = rate.Trial(codes, probes, W_dec)
    common = rate.bin_width(codes, probes, W_dec, tolerance=TOLERANCE)
    assert common is not None
    own = bit_allocation.widths(codes, trial, W_dec, common=common, tolerance=TOLERANCE)
    found = [
        (
            float(rate.code_length(codes, rate.symbols(codes, width)).bits.mean()),
            trial.rise(width),
        )
        for width in (common, own)
    ]
    return found[0], found[1], trial.allowed(TOLERANCE)


@pytest.mark.parametrize("density", [0.02, 0.2, 0.7])
@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_it_never_costs_more_at_no_more_distortion(
    density: float, noise: float
) -> None:
    acts, W_dec = sparse_acts(2000, 24, density), unit_rows(24, 16)
    common, own, allowed = bits_and_rise(acts, W_dec, noise=noise)
    assert own[0] <= common[0]
    assert own[1] <= allowed


def test_latents_of_unequal_reach_are_coded_in_unequal_bins() -> None:
    acts = sparse_acts(4000, 16, 0.2)
    W_dec = unit_rows(16, 32) * torch.logspace(-1, 1, 16)[:, None]
    common, own, _ = bits_and_rise(acts, W_dec, noise=0.3)
    assert own[0] < 0.8 * common[0]


def test_latents_alike_keep_the_common_width_where_bins_are_fine() -> None:
    acts, W_dec = sparse_acts(4000, 8, 0.3), torch.eye(8)
    codes, probes = codes_of(acts), probes_of(acts, W_dec, noise=0.02)
    common = rate.bin_width(codes, probes, W_dec, tolerance=TOLERANCE)
    assert common is not None
    own = bit_allocation.widths(
        codes,
        rate.Trial(codes, probes, W_dec),
        W_dec,
        common=common,
        tolerance=TOLERANCE,
    )
    # At high resolution all slopes agree (Gersho and Gray 1992, section 8.3).
    assert np.abs(np.log2(own.numpy() / common)).max() <= 0.5
