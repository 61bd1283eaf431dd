"""Tests of distributions over sets of concepts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trilemma.theory.distributions import distributions
from trilemma.theory.supports import Supports, counted, independent, pair


def test_a_pair_has_the_marginals_it_was_given() -> None:
    found = pair(0.3, 0.2, 0.05)
    assert found.pairwise == pytest.approx(np.array([[0.3, 0.05], [0.05, 0.2]]))


def test_concepts_of_independent_blocks_meet_by_chance() -> None:
    found = independent([pair(0.3, 0.2, 0.05), pair(0.1, 0.4, 0.1)])
    assert found.marginals == pytest.approx([0.3, 0.2, 0.1, 0.4])
    assert found.pairwise[0, 3] == pytest.approx(0.3 * 0.4)
    assert found.pairwise[2, 3] == pytest.approx(0.1)


def test_eight_pairs_fit_a_table() -> None:
    found = independent([pair(0.08, 0.08, 0.04)] * 8)
    assert len(found.probability) == 4**8
    assert found.probability.sum() == pytest.approx(1, abs=1e-12)


def test_equal_sets_of_a_sample_are_one_entry() -> None:
    active = np.array([[1, 0, 1], [0, 0, 0], [1, 0, 1], [1, 1, 1]], dtype=bool)
    found = counted(active)
    assert found.probability[found.sizes == 2].tolist() == [0.5]
    assert found.marginals == pytest.approx([0.75, 0.25, 0.75])


def test_a_set_given_in_two_orders_is_one_set() -> None:
    found = Supports.of({(0, 1): 0.5, (1, 0): 0.5}, num_concepts=2)
    assert found.probability.tolist() == [1.0]


@given(distributions())
def test_the_mean_size_is_the_sum_of_marginals(supports: Supports) -> None:
    size = supports.mean(supports.sizes.astype(np.float64))
    assert size == pytest.approx(supports.marginals.sum())


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1))
def test_a_sample_keeps_its_second_moments(rows: list[list[bool]]) -> None:
    active = np.array(rows)
    expected = active.T.astype(float) @ active / len(active)
    assert counted(active).pairwise == pytest.approx(expected)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {(): 0.5, (0,): 0.4},
            "supports: found probabilities that sum to 0.9; they must sum to 1, "
            "the empty set among them",
        ),
        (
            {(): 1.2, (0,): -0.2},
            "supports: found probability -0.2; none may be below 0",
        ),
        (
            {(): 0.5, (2,): 0.5},
            "supports: found concept 2; num_concepts is 2, so they are 0 to 1",
        ),
    ],
)
def test_what_is_no_distribution_is_refused(
    table: dict[tuple[int, ...], float], message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        Supports.of(table, num_concepts=2)
    assert str(caught.value) == message
