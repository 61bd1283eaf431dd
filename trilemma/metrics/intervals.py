"""Intervals whose unit of sampling is the document: bootstrap and jackknife."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Shaped
from scipy import special

NUM_BLOCKS = 20
"""Blocks of documents that the jackknife leaves out in turn."""
_LEVEL = 0.95
_BLOCK_ENTRIES = 1 << 22
"""Largest number of document weights held at once (32 MiB of float64)."""
_ROUNDING = 1e-9
"""Share of a standard error below which a resample's own is rounding."""


class Interval(NamedTuple):
    """A value and its 95 % interval, in the order in which `Scalar` begins."""

    value: float | None
    """None where it is undefined."""
    ci_low: float | None
    """None where the value is undefined, or there are fewer than two documents."""
    ci_high: float | None
    """As `ci_low`."""


class Bounds(NamedTuple):
    """Between what a quantity lies by construction, whatever the sample."""

    low: float = -math.inf
    high: float = math.inf


UNBOUNDED = Bounds()
NOT_NEGATIVE = Bounds(low=0.0)
SHARE = Bounds(0.0, 1.0)
UNDEFINED = Interval(None, None, None)


def bootstrap_ratio(
    num: Shaped[np.ndarray, " document"],
    den: Shaped[np.ndarray, " document"],
    *,
    num_resamples: int,
    seed: int,
    min_denominator: float = 0.0,
    bounds: Bounds = UNBOUNDED,
) -> Interval:
    """Return `sum(num) / sum(den)` with its interval; see `bootstrap_ratios`.

    `num[i]` and `den[i]` are sums over document i. A mean has the count of tokens as
    `den`; F1 is `2 tp` over `2 tp + fp + fn`. The ratio is undefined where the sum of
    `den` is not above `min_denominator`.
    """
    return bootstrap_ratios(
        np.asarray(num)[:, None],
        np.asarray(den)[:, None],
        num_resamples=num_resamples,
        seed=seed,
        min_denominator=min_denominator,
        bounds=[bounds],
    )[0]


def bootstrap_ratios(
    num: Shaped[np.ndarray, "document ratio"],
    den: Shaped[np.ndarray, "document ratio"],
    *,
    num_resamples: int,
    seed: int,
    min_denominator: float | Float64[np.ndarray, " ratio"] = 0.0,
    bounds: Sequence[Bounds] | None = None,
) -> list[Interval]:
    """Return many ratios with their intervals, on the same resamples of documents.

    The studentised bootstrap (Efron and Tibshirani 1993, section 12.5): documents are
    drawn with replacement, and what is resampled is the ratio's error over its own
    standard error, to first order. Percentiles of the ratio itself would be too narrow
    where documents are few or unlike each other; `docs/metrics.md` has the figures.
    No interval passes its ratio's bounds.
    """
    num = np.asarray(num, dtype=np.float64)
    den = np.asarray(den, dtype=np.float64)
    total = den.sum(0)
    least = np.broadcast_to(min_denominator, total.shape)
    is_defined = total > least
    value = num.sum(0) / np.where(is_defined, total, 1.0)
    # About its value a ratio's sums are small, so that nothing cancels.
    error = num - value * den
    columns = np.concatenate([error, den, error**2, error * den, den**2], axis=1)
    drawn = resampled_sums(columns, num_resamples=num_resamples, seed=seed)
    sums = drawn.reshape(num_resamples, 5, len(total))
    found = []
    for i in range(len(total)):
        if not is_defined[i]:
            found.append(UNDEFINED)
            continue
        num_behind = int((den[:, i] != 0).sum())
        if num_behind <= 1:
            found.append(Interval(float(value[i]), None, None))
            continue
        kept = sums[sums[:, 1, i] > least[i], :, i]
        low, high = _studentised_errors(kept, num_documents=num_behind)
        spread = _standard_error(num[:, i], den[:, i])
        ends = value[i] - spread * high, value[i] - spread * low
        least_value, most = UNBOUNDED if bounds is None else bounds[i]
        low, high = (float(np.clip(end, least_value, most)) for end in ends)
        found.append(Interval(float(value[i]), low, high))
    return found


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


def _studentised_errors(
    sums: Float64[np.ndarray, "resample 5"], *, num_documents: int
) -> tuple[float, float]:
    """Return the errors, each over its own standard error, that bound 95 % of them."""
    error, total, squares, products, totals = sums.T
    moved = error / total
    variance = squares - 2 * moved * products + moved**2 * totals
    scale = num_documents / (num_documents - 1)
    own = np.sqrt(scale * variance.clip(min=0)) / total
    # A resample without spread says that its error is nothing, or without bound.
    rounding = _ROUNDING * float(own.max(initial=0.0))
    bound = np.where(abs(moved) <= rounding, 0.0, np.copysign(np.inf, moved))
    is_still = own <= rounding
    errors = np.where(is_still, bound, moved / np.where(is_still, 1.0, own))
    tail = (1 - _LEVEL) / 2
    usual = float(special.stdtrit(num_documents - 1, 1 - tail))
    if len(errors) == 0:
        return -usual, usual
    with np.errstate(invalid="ignore"):  # between two that are without bound
        low, high = np.quantile(errors, [tail, 1 - tail], method="weibull")
    # Two or three documents, or one that alone differs, leave too many such resamples;
    # Student's t stands in.
    return (
        float(low) if np.isfinite(low) else -usual,
        float(high) if np.isfinite(high) else usual,
    )


def _standard_error(
    num: Float64[np.ndarray, " document"], den: Float64[np.ndarray, " document"]
) -> float:
    """Return the delete-a-document jackknife's standard error of a ratio.

    It errs to the safe side (Efron and Stein 1981), which few documents need.
    """
    kept = den != 0
    num, den = num[kept], den[kept]
    left_out = (num.sum() - num) / (den.sum() - den)
    share = (len(num) - 1) / len(num)
    return float(np.sqrt(share * ((left_out - left_out.mean()) ** 2).sum()))


def percentile(
    value: float, samples: Float64[np.ndarray, " resample"], *, num_documents: int
) -> Interval:
    """Return the value with the middle 95 % of its resampled values."""
    if num_documents <= 1 or len(samples) == 0:
        return Interval(value, None, None)
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def jackknife(
    value: float,
    left_out: Shaped[np.ndarray, " block"],
    sizes: Shaped[np.ndarray, " block"],
    *,
    bounds: Bounds = UNBOUNDED,
) -> Interval:
    """Return the value with its delete-a-block jackknife interval.

    `left_out[b]` is the statistic without block b of the documents, for statistics
    that are no ratio of sums, NaN where it is undefined; `sizes[b]` says how much of
    the sample the block is, in any unit. Student's t with what `uncertainty` says. No
    end passes the bounds.
    """
    moved = influences(value, left_out, sizes)
    used = ~np.isnan(moved)
    if used.sum() <= 1:
        return Interval(value, None, None)
    variance, degrees = uncertainty(moved[used], sizes[used])
    reach = float(special.stdtrit(degrees, (1 + _LEVEL) / 2)) * variance**0.5
    return Interval(
        value, max(value - reach, bounds.low), min(value + reach, bounds.high)
    )


class Uncertainty(NamedTuple):
    """How well a value is known."""

    variance: float
    degrees: float
    """Of freedom, of Student's t."""


def uncertainty(
    influence: Float64[np.ndarray, " block"], sizes: Shaped[np.ndarray, " block"]
) -> Uncertainty:
    """Return the variance of a value from what two or more blocks add to it.

    With s the blocks' shares of the sample it is the sum of influence^2 / (1 - s): as
    much as each of them lacks for having drawn the value towards itself (MacKinnon and
    White 1985, HC2, of blocks in place of rows). There are 1 / sum(s^2) - 1 degrees of
    freedom, as many as that number of equal blocks has, at least one (proposed: it is
    Satterthwaite's number where rows are alike). For equal blocks both are the usual.
    """
    share = sizes / sizes.sum()
    variance = float((influence**2 / (1 - share)).sum())
    return Uncertainty(variance, max(1 / float((share**2).sum()) - 1, 1.0))


def influences(
    value: float,
    left_out: Shaped[np.ndarray, " block"],
    sizes: Shaped[np.ndarray, " block"],
) -> Float64[np.ndarray, " block"]:
    """Return, to first order, what each block adds to a value; they sum to zero.

    With s the block's share of the sample, it is s times how far the block's
    pseudo-value, value / s - (1 / s - 1) left_out, lies from their mean weighed by s
    (Busing, Meijer and van der Leeden 1999, Delete-m jackknife for unequal m). For a
    mean it is what the block adds to the sum, less s times all, over the number. What
    a statistic loses by a smaller sample alone, in proportion to 1 / number, is in no
    influence; for blocks of unequal sizes it would else be most of their spread. NaN
    for blocks without a part in the sample, and where the value without them is.
    """
    used = (sizes > 0) & ~np.isnan(left_out)
    found = np.full(len(left_out), np.nan)
    share = sizes[used] / max(float(sizes.sum()), 1e-300)
    added = value - (1 - share) * left_out[used]
    found[used] = added - share * (added.sum() / max(float(share.sum()), 1e-300))
    return found


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
