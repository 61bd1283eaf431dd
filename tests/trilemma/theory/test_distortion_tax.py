"""Tests of what monosemanticity costs in distortion."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from tests.trilemma.theory.distributions import distributions
from trilemma.theory import distortion_tax, rate_tax
from trilemma.theory.supports import Supports, independent, pair


@given(distributions(), st.integers(0, 6))
def test_a_budget_loses_the_concepts_beyond_it(supports: Supports, k: int) -> None:
    beyond = np.maximum(supports.sizes - float(k), 0)
    found = distortion_tax.at_budget(supports, k)
    assert found == pytest.approx(supports.mean(beyond), abs=1e-12)


@given(distributions(), st.integers(1, 5))
def test_a_budget_costs_nothing_exactly_where_no_set_exceeds_it(
    supports: Supports, k: int
) -> None:
    exceeds = (supports.probability[supports.sizes > k] > 0).any()
    assert (distortion_tax.at_budget(supports, k) > 0) == exceeds


@given(
    distributions(most_concepts=4),
    st.integers(0, 4),
    st.lists(st.floats(0.1, 3), min_size=4, max_size=4),
)
def test_no_other_choice_within_the_budget_loses_less(
    supports: Supports, k: int, lengths: list[float]
) -> None:
    norms = np.array(lengths[: supports.num_concepts])
    least = []
    for row in supports.present:
        energies = (norms[row] ** 2).tolist()
        kept = itertools.combinations(energies, min(k, len(energies)))
        least.append(sum(energies) - max(map(sum, kept)))
    found = distortion_tax.at_budget(supports, k, norms=norms)
    assert found == pytest.approx(supports.mean(np.array(least)), abs=1e-9)


def test_two_concepts_lose_their_co_occurrence_at_a_budget_of_one() -> None:
    assert distortion_tax.at_budget(pair(0.4, 0.3, 0.2), 1) == pytest.approx(0.2)


@given(distributions(), st.floats(0, 6))
def test_a_free_code_never_loses_more(supports: Supports, rate: float) -> None:
    free = distortion_tax.polysemantic(supports, rate)
    assert free <= distortion_tax.monosemantic(supports, rate) + 1e-9


@given(distributions())
def test_both_curves_begin_at_no_code_and_end_at_their_exact_rates(
    supports: Supports,
) -> None:
    rates = rate_tax.rate_tax(supports)
    for curve, end in (
        (distortion_tax.monosemantic, rates.monosemantic),
        (distortion_tax.polysemantic, rates.polysemantic),
    ):
        assert curve(supports, 0) == pytest.approx(supports.marginals.sum())
        assert curve(supports, end) == pytest.approx(0, abs=1e-9)


@given(distributions())
def test_the_curves_are_one_exactly_where_no_two_concepts_meet(
    supports: Supports,
) -> None:
    rate = rate_tax.rate_tax(supports).polysemantic
    gap = distortion_tax.monosemantic(supports, rate)
    assert (gap < 1e-9) == (supports.probability[supports.sizes > 1].sum() < 1e-9)


@given(distributions(), st.floats(0, 5), st.floats(0, 5))
def test_the_free_curve_is_convex(
    supports: Supports, first: float, second: float
) -> None:
    ends = [distortion_tax.polysemantic(supports, rate) for rate in (first, second)]
    middle = distortion_tax.polysemantic(supports, (first + second) / 2)
    assert middle <= sum(ends) / 2 + 1e-9


@given(distributions(), st.floats(0, 2))
def test_no_other_way_to_spend_the_rate_loses_less(
    supports: Supports, rate: float
) -> None:
    # Served is how much of a set's probability is spent on its latent.
    found = optimize.linprog(
        -supports.sizes.astype(float),
        A_ub=(supports.sizes > 0).astype(float)[None],
        b_ub=[rate],
        bounds=[(0, p) for p in supports.probability],
    )
    expected = supports.marginals.sum() + found.fun
    assert distortion_tax.polysemantic(supports, rate) == pytest.approx(
        expected, abs=1e-9
    )


def test_the_largest_sets_are_served_first() -> None:
    supports = Supports.of({(): 0.5, (0,): 0.3, (0, 1, 2): 0.2}, num_concepts=3)
    found = [distortion_tax.polysemantic(supports, rate) for rate in (0, 0.1, 0.2, 0.4)]
    assert found == pytest.approx([0.9, 0.6, 0.3, 0.1])


def test_the_gap_of_sixteen_concepts_grows_with_co_occurrence() -> None:
    gaps = []
    for together in np.linspace(0, 0.9, 10):
        supports = independent([pair(0.08, 0.08, 0.08 * together)] * 3)
        rate = rate_tax.rate_tax(supports).polysemantic
        gaps.append(distortion_tax.monosemantic(supports, rate))
    assert (np.diff(gaps) > 0).all()
