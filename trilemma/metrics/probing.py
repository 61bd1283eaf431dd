"""k-sparse probing: how well do a few latents tell a fact about a token?

Gurnee et al. (2023, arXiv 2305.01610): of the latents, the k that separate the two
classes best, and a logistic regression on them. All that is chosen (which latents, how
many, how strong the penalty) is chosen within the training part of a fold, by folds of
its own, and a document is never on both sides.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import sklearn
from jaxtyping import Bool, Float64, Int64
from scipy import sparse, stats
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

KS = (1, 2, 5, 16)
PENALTIES = (0.01, 1.0)
"""Values of scikit-learn's C to choose from."""
OUTER_FOLDS = 3
INNER_FOLDS = 2
NUM_BLOCKS = 20
"""Blocks of documents that the jackknife leaves out in turn."""
LEAST_DOCUMENTS = 2 * OUTER_FOLDS * INNER_FOLDS
"""Documents in which each class of a task has to occur."""

# An array, or a sparse one of scipy, which has no types.
_Matrix = Any
_Rows = Int64[np.ndarray, " chosen"]


class Probes(NamedTuple):
    """Areas under the curve on held-out documents; NaN where a task cannot be told.

    Of a task a class may occur in too few documents to be in every fold.
    """

    auroc: Float64[np.ndarray, "task probe"]
    """For each number of latents asked for, then for the number that is chosen."""
    left_out: Float64[np.ndarray, "block task probe"]
    """The same without each block of documents in turn, for intervals."""
    sizes: Int64[np.ndarray, " block"]
    """How many rows each block has."""


def probe(
    acts: _Matrix,
    labels: Bool[np.ndarray, "row task"],
    document: Int64[np.ndarray, " row"],
    *,
    ks: Sequence[int | None],
    seed: int,
) -> Probes:
    """Return how well k columns tell each task's label, None being all columns."""
    kept = [np.ones(len(labels), dtype=bool)]
    kept += [document % NUM_BLOCKS != block for block in range(NUM_BLOCKS)]
    found = np.full((len(kept), labels.shape[1], len(ks) + 1), np.nan)
    with (
        threadpool_limits(limits=1),
        sklearn.config_context(assume_finite=True, skip_parameter_validation=True),
    ):
        for task, column in enumerate(labels.T):
            sides = (column, ~column)
            if min(len(np.unique(document[s])) for s in sides) < LEAST_DOCUMENTS:
                continue
            fold, scores = _out_of_fold(acts, column, document, ks=ks, seed=seed)
            for place in np.ndindex(len(kept), len(ks) + 1):
                rows = kept[place[0]]
                found[place[0], task, place[1]] = _mean_auroc(
                    scores[rows, place[1]], column[rows], fold[rows]
                )
    sizes = np.bincount(document % NUM_BLOCKS, minlength=NUM_BLOCKS)
    return Probes(found[0], found[1:], sizes)


def auroc(
    scores: Float64[np.ndarray, " row"], labels: Bool[np.ndarray, " row"]
) -> float:
    """Return the chance that a row of the class scores higher than one that is not."""
    rank = stats.rankdata(scores)
    num_true, num = int(labels.sum()), len(labels)
    above = float(rank[labels].sum()) - num_true * (num_true + 1) / 2
    return above / (num_true * (num - num_true))


def _mean_auroc(
    scores: Float64[np.ndarray, " row"],
    labels: Bool[np.ndarray, " row"],
    fold: Int64[np.ndarray, " row"],
) -> float:
    """Return the mean over folds, whose scores come from models of their own."""
    parts = [fold == each for each in range(OUTER_FOLDS)]
    areas = [
        auroc(scores[part], labels[part])
        for part in parts
        if 0 < labels[part].sum() < part.sum()
    ]
    return float(np.mean(areas)) if areas else np.nan


def _out_of_fold(
    acts: _Matrix,
    labels: Bool[np.ndarray, " row"],
    document: Int64[np.ndarray, " row"],
    *,
    ks: Sequence[int | None],
    seed: int,
) -> tuple[Int64[np.ndarray, " row"], Float64[np.ndarray, "row probe"]]:
    """Return each row's fold, and its scores by models that were not fitted on it."""
    fold = np.zeros(len(labels), dtype=np.int64)
    scores = np.zeros((len(labels), len(ks) + 1))
    for index, (train, test) in enumerate(
        _folds(labels, document, num=OUTER_FOLDS, seed=seed)
    ):
        fold[test] = index
        reached = np.zeros((len(ks), len(PENALTIES)))
        inner = _folds(labels[train], document[train], num=INNER_FOLDS, seed=seed)
        for fitted, left in ((train[one], train[other]) for one, other in inner):
            of_k = _Selection(acts, labels, fitted, ks)
            for place in np.ndindex(reached.shape):
                k, penalty = ks[place[0]], PENALTIES[place[1]]
                reached[place] += auroc(of_k.scores(left, k, penalty), labels[left])
        of_k = _Selection(acts, labels, train, ks)
        best = reached.argmax(1)
        for column, k in enumerate(ks):
            scores[test, column] = of_k.scores(test, k, PENALTIES[best[column]])
        scores[test, -1] = scores[test, reached.max(1).argmax()]
    return fold, scores


def _folds(
    labels: Bool[np.ndarray, " row"],
    document: Int64[np.ndarray, " row"],
    *,
    num: int,
    seed: int,
) -> Iterator[tuple[_Rows, _Rows]]:
    """Yield the rows to fit and those to test on, whole documents on either side.

    Documents are dealt to folds in turn, those without the class first, those with
    nothing else last: so the documents of either class are spread evenly.
    """
    documents, place, count = np.unique(
        document, return_inverse=True, return_counts=True
    )
    num_true = np.bincount(place, labels, minlength=len(documents))
    mixture = (num_true > 0).astype(int) + (num_true == count)
    shuffled = np.random.default_rng(seed).permutation(len(documents))
    order = shuffled[np.argsort(mixture[shuffled], kind="stable")]
    fold = np.zeros(len(documents), dtype=np.int64)
    fold[order] = np.arange(len(documents)) % num
    for index in range(num):
        is_test = fold[place] == index
        yield np.flatnonzero(~is_test), np.flatnonzero(is_test)


class _Selection:
    """The columns that separate the classes best on some rows, and models of these."""

    def __init__(
        self,
        acts: _Matrix,
        labels: Bool[np.ndarray, " row"],
        fitted: _Rows,
        ks: Sequence[int | None],
    ) -> None:
        self._fitted, self._labels = fitted, labels[fitted]
        self._values = acts
        if None not in ks:
            order = _by_separation(acts[fitted], self._labels)
            self._values = _dense(acts[:, order[: max(k for k in ks if k is not None)]])

    def scores(
        self, rows: _Rows, k: int | None, penalty: float
    ) -> Float64[np.ndarray, " scored"]:
        """Return the log odds of rows by a model of the first k columns."""
        fitted, tested = (
            _dense(self._values[chosen][:, :k]) for chosen in (self._fitted, rows)
        )
        mean, spread = fitted.mean(0), fitted.std(0)
        spread = np.where(spread > 0, spread, 1)
        model = LogisticRegression(C=penalty, max_iter=1000)
        model.fit((fitted - mean) / spread, self._labels)
        found: Float64[np.ndarray, " scored"] = model.decision_function(
            (tested - mean) / spread
        )
        return found


def _by_separation(
    acts: _Matrix, labels: Bool[np.ndarray, " row"]
) -> Int64[np.ndarray, " width"]:
    """Return the columns by the difference of class means, in standard errors."""
    sides = np.stack([labels, ~labels]).astype(np.float64)
    count = sides.sum(1, keepdims=True)
    mean = _dense(sides @ acts) / count
    variance = (_dense(sides @ (acts * acts)) / count - mean**2).clip(0)
    error = np.sqrt((variance / count).sum(0))
    difference = np.abs(mean[0] - mean[1])
    separation = np.where(error > 0, difference / np.where(error > 0, error, 1), 0)
    return np.argsort(-separation, kind="stable")


def _dense(matrix: _Matrix) -> Float64[np.ndarray, "row width"]:
    found = matrix.toarray() if sparse.issparse(matrix) else matrix
    return np.asarray(found, dtype=np.float64)
