"""How numbers, intervals and corpus text are shown to a reader."""

import math
from collections.abc import Callable

from trilemma.metrics.scalar import Scalar

MISSING = "\N{EN DASH}"
_SMALL = 1e-3
"""Numbers below this are written with three significant digits."""
_VISIBLE = str.maketrans(
    {
        " ": "\N{MIDDLE DOT}",
        "\t": "\N{RIGHTWARDS ARROW}",
        "\r": "\N{SYMBOL FOR CARRIAGE RETURN}",
    }
)


def number(value: float | None) -> str:
    """Return a number with three significant digits, or a dash if there is none."""
    return MISSING if value is None else _writer(value, None)(value)


def short(value: float) -> str:
    """Return a number with up to three significant digits, for the ends of an axis."""
    return f"{value:.3g}"


def count(value: float | None) -> str:
    """Return a whole number with thousands separated, or a dash if there is none."""
    return MISSING if value is None else f"{value:,.0f}"


def value(scalar: Scalar | None) -> str:
    """Return a scalar's value with as many digits as its interval makes meaningful."""
    if scalar is None or scalar.value is None:
        return MISSING
    return _writer(scalar.value, _width(scalar))(scalar.value)


def interval(scalar: Scalar | None) -> str:
    """Return a scalar's interval in brackets; empty where it has none."""
    if scalar is None or scalar.ci_low is None or scalar.ci_high is None:
        return ""
    scale = max(abs(scalar.ci_low), abs(scalar.ci_high))
    write = _writer(scale, _width(scalar))
    return f"[{write(scalar.ci_low)}, {write(scalar.ci_high)}]"


def recipe(scalar: Scalar | None) -> str:
    """Return one line that says how a scalar was measured."""
    if scalar is None:
        return "not measured"
    parts = [
        "" if scalar.reason is None else f"undefined: {scalar.reason}",
        "" if scalar.unit in ("", "1") else f"unit: {scalar.unit}",
        f"method: {scalar.method}",
        f"n: {scalar.n:,}",
        f"version: {scalar.metric_version}",
        "" if scalar.seed is None else f"seed: {scalar.seed}",
    ]
    return "; ".join(part for part in parts if part)


def visible(token: str) -> str:
    """Return a token's text with white space and control characters made visible."""
    text = token.translate(_VISIBLE).replace(
        "\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"
    )
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _width(scalar: Scalar) -> float | None:
    if scalar.ci_low is None or scalar.ci_high is None:
        return None
    return scalar.ci_high - scalar.ci_low


def _writer(scale: float, width: float | None) -> Callable[[float], str]:
    """Return how to write numbers of this scale: two digits of the width, if any."""
    if width is None or width <= 0:
        if scale == 0 or float(scale).is_integer():
            return lambda x: f"{x:,.0f}"
        digit = 10.0 ** (math.floor(math.log10(abs(scale))) - 2)
    else:
        digit = 10.0 ** (math.floor(math.log10(width)) - 1)
    if abs(scale) < _SMALL:
        return lambda x: f"{x:.3g}"
    decimals = min(6, max(0, -round(math.log10(digit))))
    return lambda x: f"{x:,.{decimals}f}"
