"""Tests of scores: known judges, raw judgements, intervals, and leaked splits."""

import dataclasses

import numpy as np
import pytest

from trilemma.explanation.evidence import Evidence, collect
from trilemma.explanation.explainer import Explanation
from trilemma.explanation.predicates import Predicate, TokenSet
from trilemma.explanation.rows import EXPLAIN, SCORE, LeakedSplitError, Rows
from trilemma.explanation.scoring import Judgement, PredicateScorer, scores


def evidence_of(rows: Rows, fires: np.ndarray) -> Evidence:
    acts = np.where(fires, 1.5, 0).astype(np.float32)
    return collect(rows, acts, latent=0, window=16, num_examples=4, seed=0)


def saying(rows: Rows, *tokens: int) -> Explanation:
    terms = (TokenSet(0, tokens),) if tokens else ()
    return Explanation("words", Predicate(terms), rows.documents(EXPLAIN))


def values(
    judgements: tuple[Judgement, ...] | list[Judgement],
) -> dict[str, float | None]:
    found = scores(judgements, shuffled=None, num_resamples=100, seed=0)
    return {name: scalar.value for name, scalar in found.items()}


def test_an_oracle_scores_one(rows: Rows) -> None:
    judgements = PredicateScorer().judge(
        saying(rows, 3), evidence_of(rows, rows.token == 3)
    )
    found = values(judgements)
    for name in ("predicate_f1", "precision", "recall", "auroc", "explained_share"):
        assert found[name] == 1


def test_a_rule_that_never_holds_scores_nothing(rows: Rows) -> None:
    judgements = PredicateScorer().judge(
        saying(rows), evidence_of(rows, rows.token == 3)
    )
    found = values(judgements)
    assert (found["predicate_f1"], found["recall"], found["explained_share"]) == (
        0,
        0,
        0,
    )
    assert found["precision"] is None
    assert found["auroc"] == 0.5


def test_a_coin_scores_the_auroc_of_chance(rows: Rows) -> None:
    fires = np.random.default_rng(0).uniform(size=len(rows.token)) < 0.3
    judgements = PredicateScorer().judge(
        saying(rows, *range(1, 9)), evidence_of(rows, fires)
    )
    scalar = scores(judgements, shuffled=None, num_resamples=500, seed=0)["auroc"]
    assert scalar.ci_low is not None and scalar.ci_high is not None
    assert scalar.ci_low < 0.5 < scalar.ci_high


def test_judgements_count_every_unmasked_token_of_the_score_split(rows: Rows) -> None:
    judgements = PredicateScorer().judge(
        saying(rows, 3, 4), evidence_of(rows, np.isin(rows.token, (4, 5)))
    )
    chosen = rows.counted_in(SCORE)
    assert {row.document for row in judgements} == set(rows.document[chosen].tolist())
    totals = np.array(judgements)[:, 1:5].sum(axis=0).tolist()
    tokens = rows.token[chosen]
    assert totals == [
        (tokens == 4).sum(),
        (tokens == 3).sum(),
        (tokens == 5).sum(),
        len(tokens),
    ]


def test_scores_follow_their_formulas() -> None:
    judgements = [
        Judgement(1, tp=3, fp=1, fn=2, n=20, explained=9.0, total=10.0),
        Judgement(2, tp=0, fp=2, fn=1, n=30, explained=0.0, total=2.0),
    ]
    assert values(judgements) == pytest.approx(
        {
            "predicate_f1": 6 / 12,
            "precision": 3 / 6,
            "recall": 3 / 6,
            "explained_share": 9 / 12,
            "always_f1": 12 / 56,
            "auroc": (3 / 6 + 41 / 44) / 2,
            "shuffled_f1": None,
        }
    )


def test_intervals_hold_their_value_and_narrow_with_documents() -> None:
    generator = np.random.default_rng(0)

    def interval(num: int) -> tuple[float, float, float]:
        tp = generator.binomial(10, 0.7, size=num)
        judgements = [
            Judgement(i, int(hits), 3, int(10 - hits), 60, float(hits), 10.0)
            for i, hits in enumerate(tp)
        ]
        scalar = scores(judgements, shuffled=None, num_resamples=500, seed=0)["auroc"]
        assert scalar.value and scalar.ci_low and scalar.ci_high
        return scalar.value, scalar.ci_low, scalar.ci_high

    few, many = interval(20), interval(500)
    assert few[1] < few[0] < few[2] and many[1] < many[0] < many[2]
    assert (many[2] - many[1]) < 0.5 * (few[2] - few[1])


def test_every_score_states_its_recipe() -> None:
    judgement = Judgement(1, 1, 1, 1, 9, 1.0, 1.0)
    for scalar in scores([judgement], shuffled=None, num_resamples=9, seed=5).values():
        assert (scalar.n, scalar.seed, scalar.unit) == (1, 5, "1")
        assert scalar.ci_low is None


@pytest.mark.parametrize("fires", [True, False])
def test_an_undefined_score_says_why(fires: bool) -> None:
    # Nothing is picked; the latent fires on all ten tokens, or on none.
    judgement = Judgement(1, 0, 0, 10 if fires else 0, 10, 0.0, 5.0 if fires else 0.0)
    found = scores([judgement], shuffled=None, num_resamples=9, seed=0)
    for scalar in found.values():
        assert (scalar.value is None) == (scalar.reason is not None)
    assert found["precision"].reason == "the explanation picks no scored token"
    assert found["shuffled_f1"].reason == "no other latent was explained"
    both = "the latent fires on all scored tokens or on none"
    assert found["auroc"].reason == both
    silent = None if fires else "the latent fires on no scored token"
    assert found["recall"].reason == silent


def test_a_document_on_both_sides_of_the_split_is_refused(rows: Rows) -> None:
    document = min(rows.documents(SCORE))
    split = rows.split.copy()
    split[np.flatnonzero(rows.document == document)[0]] = EXPLAIN
    leaked = dataclasses.replace(rows, split=split)
    with pytest.raises(LeakedSplitError) as error:
        PredicateScorer().judge(
            saying(leaked, 3), evidence_of(leaked, leaked.token == 3)
        )
    assert str(error.value) == (
        "explanation: found 1 documents that are both explained and scored, such as "
        f"{document}; split by whole documents"
    )
