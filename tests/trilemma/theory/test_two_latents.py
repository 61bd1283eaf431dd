"""Tests of two concepts with two latents of which one may fire."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trilemma.theory.two_latents import mixed, two_latents

shares = st.floats(0, 1 / 3)


def best_of_all_pairs(first: float, second: float, both: float) -> float:
    """Return the least distortion over a grid of pairs of directions."""
    angles = np.linspace(0, math.pi, 361)
    unit = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # Energy that each direction takes from the three kinds of sample.
    energy = np.square(unit @ np.array([[1.0, 0, 1], [0, 1, 1]]))
    better = np.maximum(energy[:, None], energy[None])
    probability = np.array([first, second, both])
    total = first + second + 2 * both
    return float(total - (better @ probability).max())


@given(shares, shares, shares)
def test_no_other_pair_of_directions_loses_less(
    first: float, second: float, both: float
) -> None:
    found = two_latents(only_first=first, only_second=second, both=both)
    least = best_of_all_pairs(first, second, both)
    # The grid is half a degree wide, and losses are flat at their minimum.
    assert found.polysemantic <= least + 1e-12
    assert found.polysemantic == pytest.approx(least, abs=2e-4)


def test_the_worked_point() -> None:
    found = two_latents(only_first=0.25, only_second=0.25, both=0.3)
    assert found.monosemantic == pytest.approx(0.30)
    assert found.polysemantic == pytest.approx(0.10)
    assert found.pure_weight == pytest.approx(0.60)


@given(shares, shares, shares)
def test_the_stable_formulas_are_the_plain_ones(
    first: float, second: float, both: float
) -> None:
    found = two_latents(only_first=first, only_second=second, both=both)
    p, q = min(first, second), both
    root = math.sqrt(p**2 + 4 * q**2)
    assert found.polysemantic == pytest.approx((p + 2 * q - root) / 2, abs=1e-12)
    if p > 1e-3:
        alpha = (p - 2 * q + root) / (2 * p)
        assert found.pure_weight == pytest.approx(alpha, abs=1e-9)


@given(shares, shares, shares)
def test_the_mixed_latent_is_at_its_optimum(
    first: float, second: float, both: float
) -> None:
    found = two_latents(only_first=first, only_second=second, both=both)
    rarer = min(first, second)
    at = mixed(found.pure_weight, only_rarer=rarer, both=both)
    assert at == pytest.approx(found.polysemantic, abs=1e-12)
    for weight in np.linspace(0, 1, 101):
        assert at <= mixed(float(weight), only_rarer=rarer, both=both) + 1e-12


@pytest.mark.parametrize("both", [0.01, 0.1, 0.3])
def test_the_true_dictionary_is_not_a_local_optimum(both: float) -> None:
    step = 1e-6
    below, at = (mixed(a, only_rarer=0.25, both=both) for a in (1 - step, 1.0))
    assert (at - below) / step == pytest.approx(2 * both, rel=1e-4)


@given(shares, shares)
def test_concepts_that_never_meet_are_not_mixed(first: float, second: float) -> None:
    found = two_latents(only_first=first, only_second=second, both=0)
    assert (found.tax, found.pure_weight) == (0, 1)


def test_the_tax_of_rare_and_of_frequent_co_occurrence() -> None:
    rare = two_latents(only_first=0.25, only_second=0.3, both=1e-3)
    assert rare.tax == pytest.approx(1e-3**2 / 0.25, rel=0.02)
    frequent = two_latents(only_first=1e-3, only_second=1e-3, both=0.9)
    assert frequent.tax == pytest.approx(0.9 - 1e-3 / 2, rel=1e-6)


def test_concepts_that_only_come_together_cost_a_merged_latent_nothing() -> None:
    found = two_latents(only_first=0, only_second=0.2, both=0.3)
    assert found.polysemantic == 0
    assert found.pure_weight == pytest.approx(1 / 2)


@pytest.mark.parametrize("rarer", [1e-3, 0.1, 0.3])
def test_the_tax_grows_with_co_occurrence(rarer: float) -> None:
    taxes = [
        two_latents(only_first=rarer, only_second=0.4, both=both).tax
        for both in np.linspace(0, 0.5, 26)
    ]
    assert (np.diff(taxes) > 0).all()
