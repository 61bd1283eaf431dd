"""The one form of every reported number: a value with its interval and its recipe."""

from typing import NamedTuple


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
