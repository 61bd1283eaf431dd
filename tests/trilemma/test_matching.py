"""Tests of maximum-weight matchings, by trying all sets of pairs."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trilemma import matching


def best_by_trying_all(pairs: list[tuple[int, int]], weights: list[float]) -> float:
    """Return the weight of the heaviest set of pairs that share no member."""
    best = 0.0
    for taken in itertools.product([False, True], repeat=len(pairs)):
        chosen = [pair for pair, is_taken in zip(pairs, taken, strict=True) if is_taken]
        members = list(itertools.chain(*chosen))
        if len(members) == len(set(members)):
            best = max(best, sum(itertools.compress(weights, taken)))
    return best


@given(
    st.dictionaries(
        st.tuples(st.integers(0, 6), st.integers(0, 6))
        .filter(lambda pair: pair[0] != pair[1])
        .map(lambda pair: (min(pair), max(pair))),
        st.floats(-1, 1),
        max_size=9,
    )
)
def test_no_other_set_is_heavier(weight_of: dict[tuple[int, int], float]) -> None:
    pairs, weights = list(weight_of), list(weight_of.values())
    taken = matching.heaviest(
        np.array(pairs, dtype=np.int64).reshape(-1, 2), np.array(weights)
    )
    members = np.array(pairs, dtype=np.int64).reshape(-1, 2)[taken].reshape(-1)
    assert len(members) == len(set(members))
    assert np.array(weights)[taken].sum() == pytest.approx(
        best_by_trying_all(pairs, weights), abs=1e-9
    )


def test_the_middle_of_a_path_gives_way_to_its_ends() -> None:
    pairs = np.array([[0, 1], [1, 2], [2, 3]])
    taken = matching.heaviest(pairs, np.array([2.0, 3.0, 2.0]))
    assert taken.tolist() == [True, False, True]


def test_the_scale_of_weights_does_not_matter() -> None:
    generator = np.random.default_rng(0)
    pairs = np.array(list(itertools.combinations(range(12), 2)))
    weights = generator.random(len(pairs))
    taken = matching.heaviest(pairs, weights)
    assert matching.heaviest(pairs, 1e-9 * weights).tolist() == taken.tolist()
