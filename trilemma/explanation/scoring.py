"""Scorers: raw judgements on documents no explanation has seen, and their scores."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from trilemma.explanation.evidence import Evidence
from trilemma.explanation.explainer import Explanation
from trilemma.explanation.rows import SCORE, LeakedSplitError
from trilemma.metrics import intervals
from trilemma.metrics.scalar import Scalar

METRIC_VERSION = 1


class Judgement(NamedTuple):
    """How an explanation did on the unmasked tokens of one document."""

    document: int
    tp: int
    """Tokens on which the latent fires, as said."""
    fp: int
    """Tokens on which it is silent, though said to fire."""
    fn: int
    """Tokens on which it fires, though not said to."""
    n: int
    """All unmasked tokens of the document."""
    explained: float
    """Sum of activations on the tokens of `tp`."""
    total: float
    """Sum of all activations."""


@runtime_checkable
class Scorer(Protocol):
    """Anything that tests an explanation of a latent on its score split."""

    def judge(
        self, explanation: Explanation, evidence: Evidence
    ) -> tuple[Judgement, ...]:
        """Return one judgement for each document of the score split."""
        ...


class PredicateScorer:
    """Runs an explanation's predicate on every row of the score split."""

    def judge(
        self, explanation: Explanation, evidence: Evidence
    ) -> tuple[Judgement, ...]:
        """Return what the predicate gets right and wrong, document by document."""
        rows = evidence.rows
        check_split(explanation.documents, rows.documents(SCORE))
        assert explanation.predicate is not None, "this scorer runs predicates"
        chosen = rows.counted_in(SCORE)
        acts = evidence.acts[chosen].astype(np.float64)
        fires = acts > 0
        says = explanation.predicate.holds(rows)[chosen]
        documents, index = np.unique(rows.document[chosen], return_inverse=True)
        columns = [
            np.bincount(index[rows_of], minlength=len(documents)).tolist()
            for rows_of in (says & fires, says & ~fires, ~says & fires, says | ~says)
        ]
        masses = [
            np.bincount(index, weights=weights, minlength=len(documents)).tolist()
            for weights in (acts * says, acts)
        ]
        return tuple(
            Judgement(*row)
            for row in zip(documents.tolist(), *columns, *masses, strict=True)
        )


def check_split(explained: frozenset[int], scored: frozenset[int]) -> None:
    """Raise `LeakedSplitError` if a document is both explained from and scored on."""
    leaked = sorted(explained & scored)
    if leaked:
        raise LeakedSplitError(
            f"explanation: found {len(leaked):,} documents that are both explained and "
            f"scored, such as {leaked[0]}; split by whole documents"
        )


def scores(
    judgements: Sequence[Judgement],
    *,
    shuffled: Sequence[Judgement] | None,
    num_resamples: int,
    seed: int,
) -> dict[str, Scalar]:
    """Return the scores of an explanation from its raw judgements.

    `predicate_f1`, `precision`, `recall` and `explained_share` are ratios of sums over
    documents. `auroc` is that of a yes/no answer, the mean of TPR and TNR (Hanley and
    McNeil 1982, The meaning and use of the area under a ROC curve). Two controls:
    `always_f1` says that the latent fires on every token; `shuffled_f1` judges another
    latent's explanation (`shuffled`, None if there is none).
    """
    table = _table(judgements)
    tp, fp, fn, n, explained, total = table.T
    neither = "the latent is silent, and the explanation picks nothing"
    silent = "the latent fires on no scored token"
    columns = {
        "predicate_f1": (2 * tp, 2 * tp + fp + fn, neither),
        "precision": (tp, tp + fp, "the explanation picks no scored token"),
        "recall": (tp, tp + fn, silent),
        "explained_share": (explained, total, silent),
        "always_f1": (2 * (tp + fn), n + tp + fn, "no token was scored"),
    }
    ratios = intervals.bootstrap_ratios(
        np.stack([num for num, _, _ in columns.values()], axis=1),
        np.stack([den for _, den, _ in columns.values()], axis=1),
        num_resamples=num_resamples,
        seed=seed,
        bounds=[intervals.SHARE] * len(columns),
    )
    found = dict(zip(columns, ratios, strict=True))
    reasons = {name: reason for name, (_, _, reason) in columns.items()}
    found["auroc"] = _auroc(table, num_resamples=num_resamples, seed=seed)
    reasons["auroc"] = "the latent fires on all scored tokens or on none"
    found["shuffled_f1"] = intervals.UNDEFINED
    reasons["shuffled_f1"] = "no other latent was explained"
    if shuffled is not None:
        tp, fp, fn, *_ = _table(shuffled).T
        found["shuffled_f1"] = intervals.bootstrap_ratio(
            2 * tp,
            2 * tp + fp + fn,
            num_resamples=num_resamples,
            seed=seed,
            bounds=intervals.SHARE,
        )
        reasons["shuffled_f1"] = neither
    return {
        name: Scalar(
            *interval,
            n=len(judgements),
            unit="1",
            method="documents of the score split; bootstrap over documents",
            metric_version=METRIC_VERSION,
            seed=seed,
            reason=reasons[name] if interval.value is None else None,
        )
        for name, interval in found.items()
    }


def _auroc(table: np.ndarray, *, num_resamples: int, seed: int) -> intervals.Interval:
    samples = intervals.resampled_sums(table, num_resamples=num_resamples, seed=seed)
    value, areas = _balanced(table.sum(axis=0)), _balanced(samples)
    if np.isnan(value):
        return intervals.UNDEFINED
    return intervals.percentile(
        float(value), areas[~np.isnan(areas)], num_documents=len(table)
    )


def _balanced(sums: np.ndarray) -> np.ndarray:
    """Return the mean of TPR and TNR, NaN where one is undefined."""
    tp, fp, fn, n = (sums[..., column] for column in range(4))
    firing, silent = tp + fn, n - tp - fn
    is_defined = (firing > 0) & (silent > 0)
    tpr = tp / np.where(is_defined, firing, 1)
    tnr = 1 - fp / np.where(is_defined, silent, 1)
    areas: np.ndarray = np.where(is_defined, (tpr + tnr) / 2, np.nan)
    return areas


def _table(judgements: Sequence[Judgement]) -> np.ndarray:
    """Return tp, fp, fn, n, explained and total of each document."""
    return np.array([row[1:] for row in judgements], dtype=np.float64).reshape(-1, 6)
