"""Tests of maximum-weight matchings, by trying all sets of pairs."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given
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
@example({(0, 1): 1.0, (0, 2): 1.0, (1, 3): 1e-08})
def test_no_other_set_is_heavier(weight_of: dict[tuple[int, int], float]) -> None:
    pairs, weights = list(weight_of), list(weight_of.values())
    taken = matching.heaviest(
        np.array(pairs, dtype=np.int64).reshape(-1, 2), np.array(weights)
    ).taken
    members = np.array(pairs, dtype=np.int64).reshape(-1, 2)[taken].reshape(-1)
    assert len(members) == len(set(members))
    assert np.array(weights)[taken].sum() == pytest.approx(
        best_by_trying_all(pairs, weights), abs=1e-9
    )


def test_the_middle_of_a_path_gives_way_to_its_ends() -> None:
    pairs = np.array([[0, 1], [1, 2], [2, 3]])
    taken = matching.heaviest(pairs, np.array([2.0, 3.0, 2.0])).taken
    assert taken.tolist() == [True, False, True]


def test_the_scale_of_weights_does_not_matter() -> None:
    generator = np.random.default_rng(0)
    pairs = np.array(list(itertools.combinations(range(12), 2)))
    weights = generator.random(len(pairs))
    taken = matching.heaviest(pairs, weights).taken
    other = matching.heaviest(pairs, 1e-9 * weights).taken
    assert other.tolist() == taken.tolist()


def test_pairs_that_are_not_connected_are_chosen_apart() -> None:
    """Weights of a thousandth of those elsewhere do not vanish in a tolerance."""
    path, weights = np.array([[0, 1], [1, 2], [2, 3]]), np.array([2.0, 3.0, 2.0])
    pairs = np.concatenate([path + 4 * copy for copy in range(50)])
    scale = np.repeat(1e-9 ** np.linspace(0, 1, 50), 3)
    found = matching.heaviest(pairs, np.tile(weights, 50) * scale)
    assert found.taken.reshape(50, 3).tolist() == [[True, False, True]] * 50
    assert found.is_heaviest


def test_too_many_connected_pairs_are_chosen_greedily_and_it_says_so() -> None:
    """A long path whose every second pair is the heavier, beside one of three."""
    start = np.arange(10_001)
    pairs = np.stack([start, start + 1], axis=1)
    weights = 2.0 + (start % 2)
    path = np.array([[0, 1], [1, 2], [2, 3]]) + len(start) + 1
    found = matching.heaviest(
        np.concatenate([pairs, path]), np.concatenate([weights, [2.0, 3.0, 2.0]])
    )
    assert not found.is_heaviest
    assert found.taken[:-3].tolist() == (start % 2 == 1).tolist()
    assert found.taken[-3:].tolist() == [True, False, True]
