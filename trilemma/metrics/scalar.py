"""The one form of every reported number: a value with its interval and its recipe."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64


class Scalar(NamedTuple):
    """A measured number; `_asdict()` is its JSON, so nothing in it is ever NaN."""

    value: float | None
    """None where it is undefined, such as a ratio over nothing."""
    ci_low: float | None
    """Lower end of the 95 % interval; None where no interval is meaningful."""
    ci_high: float | None
    """Upper end of the 95 % interval."""
    n: int
    """How many tokens, documents or latents stand behind it; `method` says which."""
    unit: str
    """Such as `bits/token`; `1` for a pure number."""
    method: str
    """How value and interval were computed; `exact` where it is a plain count."""
    metric_version: int
    """Raised when the formula changes, so that old and new are never compared."""
    seed: int | None
    """Seed of the resampling or of the null; None where nothing is random."""
    reason: str | None = None
    """Why the value is undefined; None where there is a value."""


def pure_number(
    value: float | None,
    ends: tuple[float | None, float | None] = (None, None),
    *,
    n: int,
    method: str,
    version: int,
    reason: str,
    seed: int | None = None,
) -> Scalar:
    """Return a number without a unit; `reason` says why, should it be undefined."""
    return Scalar(
        value,
        *ends,
        n=n,
        unit="1",
        method=method,
        metric_version=version,
        seed=seed,
        reason=reason if value is None else None,
    )


def mean_of(
    values: Float64[np.ndarray, " latent"],
    *,
    method: str,
    version: int,
    reason: str,
    seed: int | None = None,
) -> Scalar:
    """Return the mean over the latents for which a value is defined."""
    defined = values[~np.isnan(values)]
    return pure_number(
        float(defined.mean()) if len(defined) else None,
        n=len(defined),
        method=f"{method}; mean over latents, no interval",
        version=version,
        reason=reason,
        seed=seed,
    )
