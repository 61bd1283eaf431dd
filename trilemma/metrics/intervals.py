"""Intervals whose unit of sampling is the document: bootstrap and jackknife."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Shaped
from scipy import special

_LEVEL = 0.95
_BLOCK_ENTRIES = 1 << 22
"""Largest number of document weights held at once (32 MiB of float64)."""


class Interval(NamedTuple):
    """A value and its 95 % interval, in the order in which `Scalar` begins."""

    value: float | None
    """None where it is undefined."""
    ci_low: float | None
    """None where the value is undefined, or fewer than two documents stand behind."""
    ci_high: float | None
    """As `ci_low`."""


UNDEFINED = Interval(None, None, None)


def bootstrap_ratio(
    num: Shaped[np.ndarray, " document"],
    den: Shaped[np.ndarray, " document"],
    *,
    num_resamples: int,
    seed: int,
    min_denominator: float = 0.0,
) -> Interval:
    """Return `sum(num) / sum(den)` with its percentile interval over documents.

    `num[i]` and `den[i]` are sums over document i. Documents are drawn with
    replacement, `num_resamples` times. A mean has the count of tokens as `den`;
    F1 is `2 tp` over `2 tp + fp + fn`. The ratio is undefined where the sum of `den`
    is not above `min_denominator`.
    """
    return bootstrap_ratios(
        np.asarray(num)[:, None],
        np.asarray(den)[:, None],
        num_resamples=num_resamples,
        seed=seed,
        min_denominator=min_denominator,
    )[0]


def bootstrap_ratios(
    num: Shaped[np.ndarray, "document ratio"],
    den: Shaped[np.ndarray, "document ratio"],
    *,
    num_resamples: int,
    seed: int,
    min_denominator: float | Float64[np.ndarray, " ratio"] = 0.0,
) -> list[Interval]:
    """Return many ratios on the same resamples of documents; see `bootstrap_ratio`."""
    num = np.asarray(num, dtype=np.float64)
    den = np.asarray(den, dtype=np.float64)
    num_ratios = num.shape[1]
    least = np.broadcast_to(min_denominator, num_ratios)
    both = np.concatenate([num, den], axis=1)
    samples = resampled_sums(both, num_resamples=num_resamples, seed=seed)
    intervals = []
    for column in range(num_ratios):
        total = float(den[:, column].sum())
        if not total > least[column]:
            intervals.append(UNDEFINED)
            continue
        value = float(num[:, column].sum()) / total
        below = samples[:, num_ratios + column]
        kept = below > least[column]
        ratios = samples[kept, column] / below[kept]
        intervals.append(percentile(value, ratios, num_documents=len(num)))
    return intervals


def resampled_sums(
    sums: Float64[np.ndarray, "document column"], *, num_resamples: int, seed: int
) -> Float64[np.ndarray, "resample column"]:
    """Return the column sums of each resample of the documents, with replacement.

    A function of the shape and the seed alone decides which documents are drawn, so
    numbers computed from one set of documents are paired.
    """
    if len(sums) == 0:
        return np.zeros((num_resamples, sums.shape[1]))
    return np.concatenate(
        [weights @ sums for weights in _weights(len(sums), num_resamples, seed)]
    )


def percentile(
    value: float, samples: Float64[np.ndarray, " resample"], *, num_documents: int
) -> Interval:
    """Return the value with the middle 95 % of its resampled values."""
    if num_documents <= 1 or len(samples) == 0:
        return Interval(value, None, None)
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def jackknife(value: float, left_out: Float64[np.ndarray, " block"]) -> Interval:
    """Return the value with its delete-a-block jackknife interval.

    `left_out[b]` is the statistic without block b of the documents, for statistics
    that are no ratio of sums. Student's t on len(left_out) - 1 degrees of freedom
    (Efron and Stein 1981, The jackknife estimate of variance, eq. 1.2).
    """
    num_blocks = len(left_out)
    if num_blocks <= 1:
        return Interval(value, None, None)
    spread = float(((left_out - left_out.mean()) ** 2).sum())
    error = float(np.sqrt(spread * (num_blocks - 1) / num_blocks))
    reach = float(special.stdtrit(num_blocks - 1, (1 + _LEVEL) / 2)) * error
    return Interval(value, value - reach, value + reach)


def _weights(
    num_documents: int, num_resamples: int, seed: int
) -> Iterator[Float64[np.ndarray, "resample document"]]:
    """Yield how often each document is drawn, a bounded block of resamples a time."""
    generator = np.random.default_rng(seed)
    step = max(1, _BLOCK_ENTRIES // num_documents)
    for start in range(0, num_resamples, step):
        size = min(step, num_resamples - start)
        drawn = generator.integers(0, num_documents, size=(size, num_documents))
        drawn += np.arange(size)[:, None] * num_documents
        counts = np.bincount(drawn.ravel(), minlength=size * num_documents)
        yield counts.reshape(size, num_documents).astype(np.float64)
