"""Ratios of sums over documents, as reported scalars with bootstrap intervals."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from trilemma.config.stages import Evaluation
from trilemma.metrics import intervals
from trilemma.metrics.intervals import Bounds
from trilemma.metrics.scalar import Scalar


class Ratio(NamedTuple):
    """A metric that is `sum(num) / sum(den)` over documents."""

    num: Float64[np.ndarray, " document"]
    den: Float64[np.ndarray, " document"]
    unit: str
    method: str
    undefined: str
    """What it means that the denominator is not above `least`."""
    bounds: Bounds
    """Between what it lies whatever the sample, so its interval too."""
    least: float = 0.0


def bootstrapped(
    ratios: Mapping[str, Ratio],
    num_tokens: Float64[np.ndarray, " document"],
    config: Evaluation,
    *,
    version: int,
) -> dict[str, Scalar]:
    """Return all ratios on the same resamples of the documents that have tokens."""
    kept = num_tokens > 0
    found = intervals.bootstrap_ratios(
        np.stack([ratio.num[kept] for ratio in ratios.values()], axis=1),
        np.stack([ratio.den[kept] for ratio in ratios.values()], axis=1),
        num_resamples=config.num_resamples,
        seed=config.seed,
        min_denominator=np.array([ratio.least for ratio in ratios.values()]),
        bounds=[ratio.bounds for ratio in ratios.values()],
    )
    return {
        name: Scalar(
            *interval,
            n=int(num_tokens.sum()),
            unit=ratio.unit,
            method=f"{ratio.method}; studentised document bootstrap",
            metric_version=version,
            seed=config.seed,
            reason=ratio.undefined if interval.value is None else None,
        )
        for (name, ratio), interval in zip(ratios.items(), found, strict=True)
    }
