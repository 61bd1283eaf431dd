"""Tests of what exact codes cost in active latents."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trilemma.theory.distributions import distributions
from trilemma.theory import rate_tax
from trilemma.theory.supports import Supports, independent, pair


@given(distributions())
def test_the_tax_is_the_mean_number_of_concepts_beyond_the_first(
    supports: Supports,
) -> None:
    beyond = np.maximum(supports.sizes - 1.0, 0)
    assert rate_tax.rate_tax(supports).tax == pytest.approx(supports.mean(beyond))


@given(distributions())
def test_pairwise_co_occurrence_bounds_the_tax(supports: Supports) -> None:
    found = rate_tax.rate_tax(supports)
    assert found.lower - 1e-9 <= found.tax <= found.upper + 1e-9


@given(distributions())
def test_there_is_no_tax_exactly_where_no_two_concepts_meet(
    supports: Supports,
) -> None:
    together = supports.pairwise - np.diag(supports.marginals)
    found = rate_tax.rate_tax(supports)
    assert (found.tax < 1e-9) == (together.max() < 1e-9)


@pytest.mark.parametrize("together", [0.0, 0.1, 0.25, 0.3])
def test_two_concepts_pay_for_their_co_occurrence(together: float) -> None:
    found = rate_tax.rate_tax(pair(0.4, 0.3, together))
    assert found.tax == pytest.approx(together, abs=1e-12)
    assert found.upper == pytest.approx(together, abs=1e-12)


def test_the_upper_bound_is_met_where_no_three_concepts_meet() -> None:
    supports = Supports.of(
        {(): 0.2, (0, 1): 0.3, (1, 2): 0.1, (0, 2): 0.2, (1,): 0.2}, num_concepts=3
    )
    found = rate_tax.rate_tax(supports)
    assert found.tax == pytest.approx(found.upper)


def test_the_lower_bound_is_met_where_all_concepts_come_together() -> None:
    supports = Supports.of({(): 0.6, (0, 1, 2, 3): 0.4}, num_concepts=4)
    found = rate_tax.rate_tax(supports)
    assert found.tax == pytest.approx(found.lower)


def test_sixteen_concepts_in_pairs_have_the_rates_of_the_product() -> None:
    found = rate_tax.rate_tax(independent([pair(0.08, 0.08, 0.04)] * 8))
    assert found.monosemantic == pytest.approx(16 * 0.08)
    assert found.polysemantic == pytest.approx(1 - (1 - 0.12) ** 8)


@given(distributions(), st.data())
def test_one_merged_latent_saves_what_its_concepts_share(
    supports: Supports, data: st.DataObject
) -> None:
    i, j = (
        data.draw(st.integers(0, supports.num_concepts - 1), label=name)
        for name in ("i", "j")
    )
    if i != j:
        found = rate_tax.merging_saving(supports, [(i, j)])
        assert found == pytest.approx(supports.pairwise[i, j])


def test_disjoint_pairs_save_the_sum_of_theirs() -> None:
    supports = independent([pair(0.3, 0.2, 0.1), pair(0.5, 0.4, 0.3)])
    found = rate_tax.merging_saving(supports, [(0, 1), (2, 3)])
    assert found == pytest.approx(0.1 + 0.3)


def cheapest_cover(present: set[int], atoms: list[frozenset[int]]) -> int:
    """Return the least number of disjoint atoms that make up a set, by trying all."""
    for count in range(len(present) + 1):
        for chosen in itertools.combinations(atoms, count):
            if sorted(itertools.chain(*chosen)) == sorted(present):
                return count
    raise AssertionError("single concepts cover every set")


@given(
    distributions(most_concepts=4),
    st.sets(st.sampled_from(list(itertools.combinations(range(4), 2)))),
)
def test_overlapping_pairs_save_what_the_cheapest_exact_code_saves(
    supports: Supports, pairs: set[tuple[int, int]]
) -> None:
    held = [pair for pair in pairs if max(pair) < supports.num_concepts]
    atoms = [frozenset({c}) for c in range(4)] + [frozenset(pair) for pair in held]
    cover = [
        float(cheapest_cover(set(np.flatnonzero(row).tolist()), atoms))
        for row in supports.present
    ]
    expected = supports.marginals.sum() - supports.mean(np.array(cover))
    found = rate_tax.merging_saving(supports, held)
    assert found == pytest.approx(expected, abs=1e-9)
    assert found <= sum(supports.pairwise[i, j] for i, j in held) + 1e-9


def test_a_merged_latent_saves_0_586_of_the_l1_norm_of_a_co_occurrence() -> None:
    found = rate_tax.l1_saving(pair(0.3, 0.3, 0.1), 0, 1)
    assert found == pytest.approx(0.0586, abs=5e-5)


def test_the_l1_saving_is_that_of_the_codes_themselves() -> None:
    dictionary = np.array([[1.0, 0], [0, 1], [0.5**0.5, 0.5**0.5]])
    apart, merged = np.array([1.0, 1, 0]), np.array([0, 0, 2**0.5])
    assert merged @ dictionary == pytest.approx(apart @ dictionary)
    found = rate_tax.l1_saving(pair(1.0, 1.0, 1.0), 0, 1)
    assert found == pytest.approx(np.abs(apart).sum() - np.abs(merged).sum())
