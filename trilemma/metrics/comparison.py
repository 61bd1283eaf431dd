"""Paired differences: two SAEs on the same documents, over seeds if there are any."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy import special

from trilemma.metrics import intervals
from trilemma.metrics.intervals import UNBOUNDED, Bounds
from trilemma.metrics.parts import Estimate

_LEVEL = 0.95
_STANDARD_ERRORS = 2.0
"""Fewer of them do not tell two SAEs apart."""


class Difference(NamedTuple):
    """One SAE's value less another's, or means over seeds of them."""

    value: float
    ci_low: float | None
    """None where fewer than two blocks of documents stand behind it."""
    ci_high: float | None
    standard_error: float | None
    """Pooled over documents, paired, and over the seeds of either side."""

    @property
    def is_distinguishable(self) -> bool:
        """Return whether it is at least two standard errors, and zero is left out.

        The interval is wider than two standard errors where seeds are few.
        """
        if self.standard_error is None or self.ci_low is None or self.ci_high is None:
            return False
        is_large = abs(self.value) >= _STANDARD_ERRORS * self.standard_error
        return is_large and not self.ci_low <= 0 <= self.ci_high


class Spread(NamedTuple):
    """A metric over seeds."""

    mean: float
    ci_low: float | None
    """Of Student's t over seeds; None for one seed."""
    ci_high: float | None
    sd: float | None
    """Standard deviation between seeds."""


def spread(values: Sequence[float]) -> Spread:
    """Return the mean over seeds, its t-interval and the deviation between seeds."""
    mean, count = float(np.mean(values)), len(values)
    if count <= 1:
        return Spread(mean, None, None, None)
    sd = float(np.std(values, ddof=1))
    reach = _t(count - 1) * sd / count**0.5
    return Spread(mean, mean - reach, mean + reach, sd)


def difference(first: Sequence[Estimate], second: Sequence[Estimate]) -> Difference:
    """Return the mean of the first less that of the second, one estimate a seed.

    All were measured on the same documents, so what a block of documents adds to both
    cancels. The variances of documents, `intervals.uncertainty`, and of seeds add up,
    with Satterthwaite's degrees of freedom (1946); with one seed the other part is
    unknown and left out.
    """
    value = float(
        np.mean([e.value for e in first]) - np.mean([e.value for e in second])
    )
    moved = np.mean([e.influence for e in first], axis=0) - np.mean(
        [e.influence for e in second], axis=0
    )
    # What weighs as tokens in one may weigh as firings in the other.
    shares = [e.sizes / e.sizes.sum() for e in (*first, *second)]
    sizes = np.mean(shares, axis=0)
    used = sizes > 0
    if used.sum() <= 1:
        return Difference(value, None, None, None)
    parts: list[tuple[float, float]] = [intervals.uncertainty(moved[used], sizes[used])]
    parts += [
        (float(np.var([e.value for e in side], ddof=1)) / len(side), len(side) - 1)
        for side in (first, second)
        if len(side) > 1
    ]
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return Difference(value, value, value, 0.0)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    return _with_error(value, variance**0.5, degrees=freedom)


def from_resamples(
    value: float,
    draws: Float64[np.ndarray, " resample"],
    *,
    num_blocks: int,
    bounds: Bounds = UNBOUNDED,
) -> Difference:
    """Return a value whose standard error is the deviation of its resamples.

    No end of its interval passes the bounds.
    """
    if num_blocks <= 1:
        return Difference(value, None, None, None)
    found = _with_error(value, float(draws.std(ddof=1)), degrees=num_blocks - 1)
    assert found.ci_low is not None and found.ci_high is not None
    return found._replace(
        ci_low=max(found.ci_low, bounds.low), ci_high=min(found.ci_high, bounds.high)
    )


def _with_error(value: float, standard_error: float, *, degrees: float) -> Difference:
    reach = _t(degrees) * standard_error
    return Difference(value, value - reach, value + reach, standard_error)


def _t(degrees: float) -> float:
    return float(special.stdtrit(degrees, (1 + _LEVEL) / 2))
