"""Tests of the search for terms: exact sets, exact counts, no empty words."""

import itertools

import numpy as np
import pytest

from trilemma.explanation.candidates import (
    Candidates,
    Counts,
    Tally,
    best_set,
    is_informative,
)
from trilemma.explanation.predicates import (
    Depth,
    Position,
    Predicate,
    TokenSet,
    Within,
)
from trilemma.explanation.rows import EXPLAIN, Rows


@pytest.mark.parametrize("seed", range(8))
def test_the_best_set_equals_a_search_of_all_sets(seed: int) -> None:
    generator = np.random.default_rng(seed)
    predicted = generator.integers(1, 60, size=9)
    hits = generator.binomial(predicted, generator.uniform(0, 1, size=9) ** 2)
    counts = Counts(5, 12, int(hits.sum()) + 20, 5000)
    allowed = np.flatnonzero(is_informative(Tally(hits, predicted), counts=counts))
    best = max(
        counts.joined(
            int(hits[list(codes)].sum()), int(predicted[list(codes)].sum())
        ).f1
        for size in range(1, 4)
        for codes in itertools.combinations(allowed, size)
    )
    found = best_set(Tally(hits, predicted), counts=counts, size=3)
    assert found is not None
    assert found.counts.f1 == pytest.approx(max(best, counts.f1), abs=1e-12)


def test_a_code_is_informative_if_it_beats_chance_and_doubles_the_odds() -> None:
    tally = Tally(np.array([1, 5, 30, 12, 0, 250]), np.array([1, 5, 100, 100, 7, 1600]))
    # A tenth of the rows fire. The first code is one lucky row; the fourth and the last
    # raise the odds too little, the last one beyond any doubt.
    found = is_informative(tally, counts=Counts(0, 0, 1000, 10_000))
    assert found.tolist() == [False, True, True, False, False, False]


def test_no_set_is_returned_where_none_raises_f1() -> None:
    tally = Tally(np.array([1, 0]), np.array([500, 3]))
    assert best_set(tally, counts=Counts(90, 100, 100, 5000), size=8) is None


def test_random_firing_has_no_candidate(rows: Rows) -> None:
    fired = np.random.default_rng(0).uniform(size=len(rows.token)) < 0.5
    chosen = rows.counted_in(EXPLAIN)
    counts = Counts(0, 0, int(fired[chosen].sum()), int(chosen.sum()))
    found = Candidates(rows).best(fired, np.zeros_like(fired), counts=counts)
    assert found is None


@pytest.mark.parametrize("seed", range(6))
def test_a_candidates_counts_are_those_of_running_its_term(
    seed: int, rows: Rows
) -> None:
    generator = np.random.default_rng(seed)
    fired = Predicate(
        (
            TokenSet(0, tuple(generator.integers(9, 160, size=12).tolist())),
            Within(int(generator.integers(60, 160)), 8),
            Position("sequence", 5, 6),
            Position("document", 2, 4),
            Depth("any", 2),
        )
    ).holds(rows)
    fired &= generator.uniform(size=len(fired)) < 0.9
    covered = generator.uniform(size=len(fired)) < 0.3
    chosen = rows.counted_in(EXPLAIN)
    counts = Counts(
        int((fired & covered & chosen).sum()),
        int((covered & chosen).sum()),
        int((fired & chosen).sum()),
        int(chosen.sum()),
    )
    candidates = Candidates(rows)
    found = list(candidates.families(fired, covered, counts=counts))
    assert len({type(candidate.term) for candidate in found}) >= 5
    for candidate in found:
        says = (candidate.term.holds(rows) | covered) & chosen
        assert candidate.counts == counts._replace(
            hits=int((says & fired).sum()), predicted=int(says.sum())
        )


def test_rows_outside_the_explain_split_change_nothing(rows: Rows) -> None:
    fired = np.isin(rows.token, (3, 9)) & rows.counted_in(EXPLAIN)
    other = fired | ~rows.counted_in(EXPLAIN)
    chosen = rows.counted_in(EXPLAIN)
    counts = Counts(0, 0, int(fired.sum()), int(chosen.sum()))
    covered = np.zeros_like(fired)
    candidates = Candidates(rows)
    assert candidates.best(fired, covered, counts=counts) == candidates.best(
        other, covered, counts=counts
    )
