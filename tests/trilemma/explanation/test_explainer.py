"""Tests of the predicate explainer: planted rules are found, and noise is not."""

import numpy as np
import pytest

from trilemma.explanation.candidates import Candidates
from trilemma.explanation.evidence import collect
from trilemma.explanation.explainer import Explanation, PredicateExplainer
from trilemma.explanation.predicates import (
    Character,
    Depth,
    Ngram,
    Position,
    Predicate,
    Term,
    TokenSet,
    Within,
)
from trilemma.explanation.rows import EXPLAIN, SCORE, Rows
from trilemma.explanation.scoring import PredicateScorer, scores

PLANTED: dict[str, tuple[Term, ...]] = {
    "token": (TokenSet(0, (20,)),),
    "set": (TokenSet(0, (12, 25, 31)),),
    "previous token": (TokenSet(1, (9,)),),
    "bigram": (Ngram((2, 3)),),
    "trigram": (Ngram((1, 2, 1)),),
    "topic of 8": (Within(60, 8),),
    "topic of 16": (Within(45, 16),),
    "topic of 32": (Within(75, 32),),
    "position": (Position("sequence", 4, 7),),
    "late position": (Position("sequence", 48, None),),
    "start of document": (Position("document", 0, 3),),
    "punctuation": (Character(0, "punctuation"),),
    "after a number": (Character(1, "digits"),),
    "round brackets": (Depth("round", 1),),
    "token or topic": (TokenSet(0, (7,)), Within(90, 16)),
    "token or position": (TokenSet(0, (7,)), Position("sequence", 10, 12)),
}


def explain(rows: Rows, fires: np.ndarray, seed: int = 0) -> tuple[Explanation, float]:
    generator = np.random.default_rng(seed)
    acts = np.where(fires, generator.uniform(0.5, 2, size=len(fires)), 0)
    evidence = collect(
        rows, acts.astype(np.float32), latent=0, window=16, num_examples=4, seed=0
    )
    explainer = PredicateExplainer(Candidates(rows), max_terms=3, min_gain=0.02)
    explanation = explainer.explain(evidence)
    found = scores(
        PredicateScorer().judge(explanation, evidence),
        shuffled=None,
        num_resamples=100,
        seed=0,
    )["predicate_f1"]
    assert found.value is not None
    return explanation, found.value


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_rule_is_recovered_on_documents_not_seen(
    rows: Rows, name: str
) -> None:
    fires = Predicate(PLANTED[name]).holds(rows)
    assert (fires & rows.counted_in(SCORE)).sum() >= 5
    _, f1 = explain(rows, fires)
    assert f1 == 1


def test_the_simplest_of_equal_rules_is_written(rows: Rows) -> None:
    explanation, _ = explain(rows, rows.token == 20)
    assert explanation.text == f"token {rows.token_text[20]!r}"


def test_a_rule_that_misses_two_fifths_is_scored_as_such(rows: Rows) -> None:
    generator = np.random.default_rng(1)
    fires = np.isin(rows.token, (3, 4)) & (
        generator.uniform(size=len(rows.token)) < 0.6
    )
    _, f1 = explain(rows, fires)
    assert f1 == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize("density", [0.002, 0.02, 0.2, 0.6])
def test_random_firing_is_not_explained(rows: Rows, density: float) -> None:
    generator = np.random.default_rng(2)
    fires = generator.uniform(size=len(rows.token)) < density
    explanation, f1 = explain(rows, fires)
    assert f1 < 0.02
    assert explanation.text is None


def test_terms_are_no_more_than_asked_for(rows: Rows) -> None:
    fires = Predicate(
        (
            Position("sequence", 3, 4),
            Position("sequence", 9, 10),
            TokenSet(0, (30,)),
            Within(80, 16),
            Position("sequence", 20, 21),
        )
    ).holds(rows)
    explanation, _ = explain(rows, fires)
    assert explanation.predicate is not None
    assert len(explanation.predicate.terms) == 3


def test_an_explanation_names_the_documents_it_was_made_from(rows: Rows) -> None:
    explanation, _ = explain(rows, rows.token == 20)
    assert explanation.documents == rows.documents(EXPLAIN)
