"""Small histograms drawn as inline SVG, which need no script to show."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from tasks.report import formatting

WIDTH = 320
HEIGHT = 120
_LEFT = 4
_BOTTOM = 18
_TOP = 14


class Bar(NamedTuple):
    """One bar, in the SVG's own units."""

    x: float
    y: float
    width: float
    height: float
    title: str


class Tick(NamedTuple):
    """A label below the bars."""

    x: float
    text: str
    anchor: str


class Histogram(NamedTuple):
    """What the template draws."""

    label: str
    """Says what the picture shows, for those who cannot see it."""
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    peak: str
    """The tallest bar's count."""


def of_values(
    values: Sequence[float | None], *, edges: Sequence[float], label: str
) -> Histogram | None:
    """Return how many values lie between the edges; None if there are no values.

    Values beyond the edges are counted in the outermost bars, so none is lost.
    """
    present = [value for value in values if value is not None]
    if not present:
        return None
    counts = [0] * (len(edges) - 1)
    for value in present:
        place = sum(value >= edge for edge in edges[1:-1])
        counts[place] += 1
    return of_counts(edges, counts, label=label)


def of_counts(
    edges: Sequence[float], counts: Sequence[int], *, label: str, is_log: bool = False
) -> Histogram | None:
    """Return bars of equal width, one for each count; None if all counts are zero.

    If `is_log`, heights follow the logarithm of one more than the count.
    """
    if not any(counts):
        return None
    heights = [math.log1p(count) if is_log else float(count) for count in counts]
    room = HEIGHT - _BOTTOM - _TOP
    step = (WIDTH - 2 * _LEFT) / len(counts)
    bars = tuple(
        Bar(
            x=round(_LEFT + index * step, 2),
            y=round(_TOP + room * (1 - height / max(heights)), 2),
            width=round(max(step - 1, 0.5), 2),
            height=round(room * height / max(heights), 2),
            title=f"{formatting.short(low)} to {formatting.short(high)}: {count:,}",
        )
        for index, (height, count, low, high) in enumerate(
            zip(heights, counts, edges[:-1], edges[1:], strict=True)
        )
        if count
    )
    return Histogram(label, bars, _ticks(edges, step), f"{max(counts):,}")


def log_edges(low: float, high: float, *, per_decade: int) -> list[float]:
    """Return edges from one power of ten to another, equally spaced in logarithm."""
    first, last = round(math.log10(low)), round(math.log10(high))
    return [
        10 ** (first + index / per_decade)
        for index in range((last - first) * per_decade + 1)
    ]


def even_edges(values: Sequence[float | None], *, num_bins: int) -> list[float]:
    """Return equally spaced edges that span the values."""
    present = [value for value in values if value is not None]
    low, high = min(present, default=0.0), max(present, default=1.0)
    width = (high - low) / num_bins or 1.0
    return [low + index * width for index in range(num_bins + 1)]


def _ticks(edges: Sequence[float], step: float) -> tuple[Tick, ...]:
    last = len(edges) - 1
    places = sorted({0, last // 2, last})
    return tuple(
        Tick(
            x=round(_LEFT + place * step, 2),
            text=formatting.short(edges[place]),
            anchor={0: "start", last: "end"}.get(place, "middle"),
        )
        for place in places
    )
