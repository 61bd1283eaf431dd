"""Do concepts that occur together in the text share latents? A rank correlation.

Proposed here. That data set polysemanticity, above all by which concepts co-occur, is
the claim of Mencattini, Montagna and Locatello (2026); this is how a corpus and an SAE
are asked about it. For each pair of labels, such as context clusters, two numbers:

* how much more often than chance both occur in one window of a document (its logarithm
  is their pointwise mutual information);
* how much more often than chance two shares of one latent's activation, drawn by their
  size, lie one in each (its logarithm is that of sharing).

Labels of contexts that overlap are alike, so neighbours share latents for a reason that
is no merit of the claim. The partial correlation holds fixed how often both labels
stand side by side.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped
from scipy import stats

from trilemma.config.stages import Evaluation
from trilemma.metrics import intervals
from trilemma.metrics.scalar import Scalar

METRIC_VERSION = 1
_LEAST_PAIRS = 3
_BLOCK_SEQS = 256


class Counts(NamedTuple):
    """Where labels were seen together, in each block of documents."""

    windows: Float64[np.ndarray, "block label label"]
    """Windows that hold both labels; the diagonal: windows that hold the one."""
    num_windows: Float64[np.ndarray, " block"]
    neighbours: Float64[np.ndarray, "block label label"]
    """Consecutive tokens of a document that bear the two labels, in either order."""


class Association(NamedTuple):
    """How co-occurrence and sharing go together over pairs of labels."""

    correlation: intervals.Interval
    """Spearman's, over pairs of labels."""
    partial: intervals.Interval
    """The same with being neighbours held fixed."""
    p_value: float | None
    """Share of dealings of the labels' names that correlate as much, two-sided."""
    num_pairs: int


class Lifts(NamedTuple):
    """How much more often than chance; NaN where a label never is."""

    together: Float64[np.ndarray, "label label"]
    neighbours: Float64[np.ndarray, "label label"]
    sharing: Float64[np.ndarray, "label label"]


def count(
    labels: Shaped[np.ndarray, "seq pos"],
    document: Int64[np.ndarray, "seq pos"],
    *,
    num_labels: int,
    num_blocks: int,
    window_tokens: int,
) -> Counts:
    """Return in how many windows labels occur together, and how often side by side.

    `document` is an index, whose remainder is its block, and -1 is no label. A window
    is the part of a document within `window_tokens` aligned tokens of its row.
    """
    windows, neighbours = np.zeros((2, num_blocks, num_labels, num_labels))
    num_windows = np.zeros(num_blocks)
    # A part of the sequences at a time, so that what is made of tokens stays small.
    for start in range(0, len(labels), _BLOCK_SEQS):
        label, of_token = (
            each[start : start + _BLOCK_SEQS] for each in (labels, document)
        )
        of_window, present = _windows(
            label, of_token, num_labels=num_labels, window_tokens=window_tokens
        )
        for block in range(num_blocks):
            held = present[of_window % num_blocks == block]
            windows[block] += held.T @ held
            num_windows[block] += len(held)
        beside = of_token[:, 1:] == of_token[:, :-1]
        beside &= (label[:, 1:] >= 0) & (label[:, :-1] >= 0)
        left, right = label[:, :-1][beside], label[:, 1:][beside]
        np.add.at(neighbours, (of_token[:, 1:][beside] % num_blocks, left, right), 1)
    return Counts(windows, num_windows, neighbours + neighbours.transpose(0, 2, 1))


def association(
    counts: Counts,
    *,
    mass: Float64[np.ndarray, "block d_sae label"],
    num_fired: Int64[np.ndarray, "block d_sae"],
    num_permutations: int,
    seed: int,
) -> Association:
    """Return how far labels that occur together are labels that share latents.

    Pairs count if both labels were seen and bear activation. Intervals delete one
    block of documents at a time. Pairs with a label in common are not independent, so
    the p value comes from dealing the names of labels anew (Mantel 1967).
    """
    parts = (*counts, mass, num_fired)
    totals = [part.sum(0) for part in parts]
    whole = lifts(*totals)
    used = (counts.num_windows > 0) & (counts.num_windows < totals[1])
    left_out = [
        lifts(*(total - part[index] for total, part in zip(totals, parts, strict=True)))
        for index in np.flatnonzero(used)
    ]
    sizes = counts.num_windows[used]
    return Association(
        _jackknife(_spearman, whole, left_out, sizes),
        _jackknife(_partial, whole, left_out, sizes),
        _mantel(whole, num_permutations=num_permutations, seed=seed),
        num_pairs=len(whole.together[_pairs(whole)]),
    )


def lifts(
    windows: Float64[np.ndarray, "label label"],
    num_windows: float,
    neighbours: Float64[np.ndarray, "label label"],
    mass: Float64[np.ndarray, "d_sae label"],
    num_fired: Int64[np.ndarray, " d_sae"],
) -> Lifts:
    """Return how much more often than chance, from sums over all blocks."""
    alive = mass.sum(1) > 0
    share = mass[alive] / mass[alive].sum(1, keepdims=True)
    # By firings, not by mass: a latent's scale is nothing but its decoder's inverse.
    weight = num_fired[alive] / num_fired[alive].sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        seen = windows.diagonal()
        beside = neighbours.sum(1)
        held = weight @ share
        return Lifts(
            together=windows * num_windows / np.outer(seen, seen),
            neighbours=neighbours * beside.sum() / np.outer(beside, beside),
            sharing=(share * weight[:, None]).T @ share / np.outer(held, held),
        )


def are_defined(found: Lifts) -> Bool[np.ndarray, "label label"]:
    """Return which pairs have all three: both labels were seen and bear activation."""
    defined: Bool[np.ndarray, "label label"] = np.isfinite(np.stack(found)).all(0)
    return defined


def scalars(found: Association, config: Evaluation) -> dict[str, Scalar]:
    """Return the rank correlations, and how likely chance alone gives as much."""
    what = (
        f"Spearman over pairs of context clusters: lift of both in "
        f"{config.window_tokens} tokens of a document, lift of both in a latent"
    )
    jackknife = "jackknife over document blocks"

    def scalar(interval: intervals.Interval, method: str) -> Scalar:
        undefined = "fewer than three pairs of clusters, or all of them alike"
        return Scalar(
            *interval,
            n=found.num_pairs,
            unit="1",
            method=method,
            metric_version=METRIC_VERSION,
            seed=config.seed,
            reason=undefined if interval.value is None else None,
        )

    p_value = intervals.Interval(found.p_value, None, None)
    return {
        "co_occurrence": scalar(found.correlation, f"{what}; {jackknife}"),
        "co_occurrence_partial": scalar(
            found.partial, f"{what}; lift of being neighbours held fixed; {jackknife}"
        ),
        "co_occurrence_p": scalar(
            p_value, f"{what}; share of {config.num_resamples} dealings of names"
        ),
    }


class _Windows(NamedTuple):
    document: Int64[np.ndarray, " window"]
    present: Float64[np.ndarray, "window label"]
    """1 where a window holds a label."""


def _windows(
    labels: Shaped[np.ndarray, "seq pos"],
    document: Int64[np.ndarray, "seq pos"],
    *,
    num_labels: int,
    window_tokens: int,
) -> _Windows:
    """Return the windows that hold any label."""
    num_seqs, ctx = labels.shape
    position = np.arange(ctx) // window_tokens
    num_documents = 1 + document.max()
    place = (np.arange(num_seqs)[:, None] * ctx + position) * num_documents
    counted = labels >= 0
    window, which = np.unique((place + document)[counted], return_inverse=True)
    present = np.zeros((len(window), num_labels))
    present[which, labels[counted]] = 1
    return _Windows(window % num_documents, present)


def _pairs(found: Lifts) -> Bool[np.ndarray, "label label"]:
    """Return which pairs are defined, each once."""
    return np.triu(are_defined(found), 1)


def _spearman(found: Lifts) -> float | None:
    kept = _pairs(found)
    return _correlation(found.together[kept], found.sharing[kept])


def _partial(found: Lifts) -> float | None:
    kept = _pairs(found)
    together, neighbours, sharing = (lift[kept] for lift in found)
    direct = _correlation(together, sharing)
    through = _correlation(together, neighbours), _correlation(neighbours, sharing)
    if direct is None or through[0] is None or through[1] is None:
        return None
    left = (1 - through[0] ** 2) * (1 - through[1] ** 2)
    if left <= 0:
        return None
    return float((direct - through[0] * through[1]) / np.sqrt(left))


def _correlation(
    one: Float64[np.ndarray, " pair"], other: Float64[np.ndarray, " pair"]
) -> float | None:
    if len(one) < _LEAST_PAIRS or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(stats.spearmanr(one, other).statistic)


def _jackknife(
    statistic: Callable[[Lifts], float | None],
    whole: Lifts,
    left_out: list[Lifts],
    sizes: Float64[np.ndarray, " block"],
) -> intervals.Interval:
    value = statistic(whole)
    if value is None:
        return intervals.UNDEFINED
    # A statistic that is None becomes NaN.
    others = np.array([statistic(rest) for rest in left_out], dtype=np.float64)
    return intervals.jackknife(value, others, sizes, bounds=intervals.Bounds(-1.0, 1.0))


def _mantel(found: Lifts, *, num_permutations: int, seed: int) -> float | None:
    whole = _spearman(found)
    if whole is None:
        return None
    named = are_defined(found).diagonal()
    together, sharing = (
        lift[np.ix_(named, named)] for lift in (found.together, found.sharing)
    )
    pair = np.triu_indices(len(together), 1)
    ranks = [stats.rankdata(lift[pair]) for lift in (together, sharing)]
    own, other = ((rank - rank.mean()) / rank.std() for rank in ranks)
    square = np.zeros_like(sharing)
    square[pair] = other
    square += square.T
    generator = np.random.default_rng(seed)
    reached = 0
    for _ in range(num_permutations):
        names = generator.permutation(len(square))
        dealt = float((own * square[names[pair[0]], names[pair[1]]]).mean())
        reached += abs(dealt) >= abs(whole)
    return (1 + reached) / (1 + num_permutations)
