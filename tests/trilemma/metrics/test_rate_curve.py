"""Tests of rate-distortion curves, their crossings and the choice over a family."""

import numpy as np
import pytest
import torch

from tests.trilemma.metrics.code_samples import (
    codes_of,
    probes_of,
    sparse_acts,
    unit_rows,
)
from trilemma.metrics import mdl, rate, rate_curve
from trilemma.metrics.rate_curve import RateCurve


def line(rates: tuple[float, ...], fvus: tuple[float, ...]) -> RateCurve:
    return RateCurve(np.ones(len(rates)), np.array(rates), np.array(fvus))


@pytest.fixture
def measured() -> tuple[RateCurve, rate.Trial, float]:
    """Return a curve, its trial and the fvu before quantisation."""
    acts, W_dec = sparse_acts(3000, 24, 0.1), unit_rows(24, 16)
    codes, probes = codes_of(acts), probes_of(acts, W_dec, noise=0.1)
    trial = rate.Trial(codes, probes, W_dec)
    fvu = trial.squared_error / trial.squared_deviation
    width = rate.bin_width(codes, probes, W_dec, tolerance=0.01)
    assert width is not None
    return rate_curve.curve(codes, trial, width=width, fvu=fvu), trial, fvu


def test_coarser_bins_cost_fewer_bits_and_more_distortion(
    measured: tuple[RateCurve, rate.Trial, float],
) -> None:
    found, _, fvu = measured
    # Activations span 1, so that the ends of wider bins fall where they will.
    fine = found.bin_width < 0.3
    assert fine.sum() > 6
    assert (np.diff(found.rate_bits[fine]) < 0).all()
    assert (np.diff(found.fvu[fine]) > 0).all()
    assert found.fvu[0] == pytest.approx(fvu, rel=2e-3)
    assert found.fvu[-1] > 1.5 * fvu


def test_the_curve_passes_through_the_headline(
    measured: tuple[RateCurve, rate.Trial, float],
) -> None:
    found, _, fvu = measured
    # The headline's width is four half-octaves from the finest.
    assert found.fvu[4] == pytest.approx(1.01 * fvu, rel=1e-4)


def test_each_halving_of_fine_bins_costs_a_bit_for_each_firing(
    measured: tuple[RateCurve, rate.Trial, float],
) -> None:
    found, _, _ = measured
    octave = found.rate_bits[0] - found.rate_bits[2]
    assert octave == pytest.approx(24 * 0.1, rel=0.1)


def test_curves_cross_where_their_lines_do() -> None:
    # log2 fvu is -rate on the one and -2 rate + 3 on the other; they meet at 3.
    gentle = line((1, 5), (2**-1, 2**-5))
    steep = line((2, 5), (2**-1, 2**-7))
    (found,) = rate_curve.crossings(gentle, steep)
    assert found.rate_bits == pytest.approx(3)
    assert found.fvu == pytest.approx(2**-3)
    assert not found.first_is_lower_above


def test_a_curve_below_another_does_not_cross_it() -> None:
    low, high = line((1, 9), (0.4, 0.1)), line((1, 9), (0.5, 0.2))
    assert rate_curve.crossings(low, high) == []
    assert rate_curve.crossings(low, low) == []


def test_curves_without_a_rate_in_common_do_not_cross() -> None:
    assert rate_curve.crossings(line((1, 2), (1, 0.5)), line((3, 4), (0.7, 0.6))) == []


def test_rate_and_distortion_are_inverse_along_a_curve() -> None:
    curve = line((2, 4, 8), (0.5, 0.2, 0.1))
    rates = np.array([2.0, 3.0, 7.0])
    fvus = rate_curve.lowest_fvu(curve, rates)
    assert rate_curve.least_rate(curve, fvus) == pytest.approx(rates)
    assert rate_curve.least_rate(curve, np.array([0.05])) == [np.inf]
    assert rate_curve.lowest_fvu(curve, np.array([1.0])) == [np.inf]


def test_the_choice_is_the_cheapest_that_meets_the_tolerance() -> None:
    curves = {
        "narrow": line((10, 20), (0.5, 0.2)),
        "wide": line((15, 40), (0.4, 0.05)),
        "silent": line((), ()),
    }
    tight, loose = mdl.choices(curves)
    assert (tight.name, loose.name) == ("wide", "narrow")
    assert (tight.low, tight.rate_bits) == pytest.approx((0.05, 40))
    assert tight.high == loose.low
    assert loose.high is None
    for choice in (tight, loose):
        at = np.array([choice.low])
        least = min(
            float(rate_curve.least_rate(c, at)[0]) for c in list(curves.values())[:2]
        )
        assert choice.rate_bits == pytest.approx(least)


def test_choices_agree_with_a_search_at_every_tolerance() -> None:
    generator = np.random.default_rng(0)
    curves = {
        str(i): line(
            tuple(np.sort(generator.uniform(5, 50, 6))),
            tuple(np.sort(generator.uniform(0.05, 0.9, 6))[::-1]),
        )
        for i in range(5)
    }
    found = mdl.choices(curves)
    for fvu in generator.uniform(found[0].low, 1.2, 300):
        chosen = next(c for c in found if c.high is None or fvu < c.high)
        rates = {
            name: float(rate_curve.least_rate(curve, np.array([fvu]))[0])
            for name, curve in curves.items()
        }
        assert rates[chosen.name] == pytest.approx(min(rates.values()))


def test_every_choice_has_a_rate_whatever_rounding_does() -> None:
    generator = np.random.default_rng(1)
    for _ in range(200):
        best, other = np.sort(generator.uniform(0.1, 0.9, (2, 3)))[:, ::-1]
        # The other needs more bits throughout: its end meets the least fvu of the best.
        curves = {
            "best": line((5, 10, 15), tuple(best)),
            "other": line((20, 30, 40), tuple(other)),
        }
        found = mdl.choices(curves)
        assert all(np.isfinite(choice.rate_bits) for choice in found)
        assert found[0].low == min(curve.fvu.min() for curve in curves.values())


def test_a_family_that_never_fires_has_no_choice() -> None:
    assert mdl.choices({"silent": line((), ())}) == []


def test_the_widest_bins_leave_the_support_alone() -> None:
    acts = (sparse_acts(2000, 8, 0.2) > 0).float()
    codes, probes = codes_of(acts), probes_of(acts, torch.eye(8), noise=0.05)
    trial = rate.Trial(codes, probes, torch.eye(8))
    found = rate_curve.curve(codes, trial, width=0.1, fvu=0.01)
    support = rate.code_length(codes, rate.symbols(codes, 2.0)).bits.mean()
    assert found.rate_bits[-1] == pytest.approx(support)
