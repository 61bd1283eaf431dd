"""Tests of when a latent for two concepts together pays in bits."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trilemma.theory import splitting


@pytest.mark.parametrize(
    ("p", "correlation", "ratio", "together"),
    [
        (0.001, 0.0017, 1.71, 0.003),
        (0.01, 0.0171, 1.715, 0.027),
        (0.05, 0.0843, 1.686, 0.130),
        (0.1, 0.1626, 1.626, 0.246),
        (0.2, 0.2945, 1.473, 0.436),
        (0.3, 0.3956, 1.319, 0.577),
        (0.4, 0.4730, 1.182, 0.684),
        (0.5, 0.5332, 1.066, 0.767),
    ],
)
def test_the_boundary_has_its_known_values(
    p: float, correlation: float, ratio: float, together: float
) -> None:
    found = splitting.boundary_correlation(p)
    joint = splitting.break_even(p, p)
    assert joint is not None
    assert found == pytest.approx(correlation, abs=5.1e-5)
    assert found / p == pytest.approx(ratio, abs=10.1e-3 if p < 0.01 else 5.1e-4)
    assert joint / p == pytest.approx(together, abs=5.1e-4)


@pytest.mark.parametrize(("p_a", "p_b"), [(1e-6, 1e-6), (1e-5, 1e-7), (1e-4, 2e-6)])
def test_rare_concepts_break_even_at_e_times_chance(p_a: float, p_b: float) -> None:
    joint = splitting.break_even(p_a, p_b)
    assert joint is not None
    assert joint / (p_a * p_b) == pytest.approx(math.e, rel=2e-3)
    assert splitting.pmi_nats(p_a, p_b, joint) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("lift", [1.0, 2.0, 5.0, 50.0])
def test_rare_concepts_save_by_their_mutual_information(lift: float) -> None:
    p_a, p_b = 2e-4, 1e-4
    joint = lift * p_a * p_b
    nats = float(splitting.saved_bits(p_a, p_b, joint)) * math.log(2)
    expected = joint * (splitting.pmi_nats(p_a, p_b, joint) - 1)
    assert nats == pytest.approx(expected, abs=5e-3 * joint * max(1, math.log(lift)))


@given(st.floats(1e-3, 0.5), st.floats(1e-3, 0.5))
def test_bits_are_saved_exactly_above_the_boundary(p_a: float, p_b: float) -> None:
    joint = splitting.break_even(p_a, p_b)
    shares = np.linspace(p_a * p_b, min(p_a, p_b), 50)
    saved = splitting.saved_bits(p_a, p_b, shares)
    if joint is None:
        assert (saved <= 1e-12).all()
    else:
        clear = np.abs(shares - joint) > 1e-6
        assert ((saved > 0) == (shares > joint))[clear].all()


@given(st.floats(1e-3, 0.999), st.floats(1e-3, 0.999))
def test_independent_concepts_never_save_bits(p_a: float, p_b: float) -> None:
    assert splitting.saved_bits(p_a, p_b, p_a * p_b) <= 1e-12


@given(st.floats(1e-3, 0.999), st.floats(1e-3, 0.999), st.floats(0, 1))
def test_concepts_that_avoid_each_other_never_save_bits(
    p_a: float, p_b: float, share: float
) -> None:
    least = max(0.0, p_a + p_b - 1)
    joint = least + share * (p_a * p_b - least)
    assert splitting.saved_bits(p_a, p_b, joint) <= 1e-12


def test_concepts_that_never_meet_save_nothing() -> None:
    assert splitting.saved_bits(0.3, 0.2, 0.0) == 0
    assert splitting.pmi_nats(0.3, 0.2, 0.0) == -math.inf


def test_latents_and_bits_rank_the_same_two_dictionaries_differently() -> None:
    p_a, p_b, joint = 0.1, 0.1, 0.015
    assert joint > p_a * p_b  # a third latent saves this many firings ...
    assert splitting.saved_bits(p_a, p_b, joint) < 0  # ... and costs bits


def test_nothing_breaks_even_where_the_rarer_concept_fills_the_other_one() -> None:
    assert splitting.break_even(0.9, 0.1) is None
