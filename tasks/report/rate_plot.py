"""The rate-distortion curves of a family, coloured by how polysemantic each SAE is."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from plotly import colors

from tasks.report import label_places, plots, statistics
from tasks.report.plots import Figure, Plot
from tasks.report.records import MemberReport, Report

_SCALE = "Viridis"
_HEADLINE_SIZE = 11
# What is left for the curves of a plot as wide as the page.
_WIDTH, _HEIGHT = 900.0, 300.0


def rate_curves(report: Report) -> list[Plot]:
    """Return one plot of all curves; none where no SAE has one."""
    members = [m for m in report.members if len(m.rate_curve["fvu"]) > 0]
    if not members:
        return []
    scores = [
        score for m in members if (score := _value(m, "polysemanticity")) is not None
    ]
    low, high = min(scores, default=0.0), max(scores, default=1.0)
    layout = plots.layout("rate (bits/token)", "fvu of the quantised code")
    layout["xaxis"] |= {"type": "log", "tickformat": "~g"}
    layout["yaxis"] |= {"type": "log", "tickformat": "~g"}
    layout["showlegend"] = False
    layout["coloraxis"] = {
        "colorscale": _SCALE,
        "cmin": low,
        "cmax": high,
        "colorbar": {"title": {"text": "polysemanticity", "side": "right"}},
    }
    traces, named = [], set()
    for member in members:
        # Seeds of one configuration lie so close that one name serves them all.
        name = statistics.configuration(member.name)
        traces.append(_trace(member, low, high, label="" if name in named else name))
        named.add(name)
    _place_names(traces)
    return [
        Plot(
            "plot-rate-curves",
            "fvu against rate as the bin width varies, one line for each SAE",
            plots.figure(traces, layout),
        )
    ]


def _place_names(traces: list[Figure]) -> None:
    """Let names of curves cover each other, and the curves' points, least."""
    x, y, names = (
        [value for trace in traces for value in trace[key]]
        for key in ("x", "y", "text")
    )
    places = iter(
        label_places.choose(_logs(x), _logs(y), names, width=_WIDTH, height=_HEIGHT)
    )
    for trace in traces:
        trace["textposition"] = [next(places) for _ in trace["text"]]


def _trace(member: MemberReport, low: float, high: float, *, label: str) -> Figure:
    """Return one SAE's curve; its headline's point is larger and has the label."""
    curve, score = statistics.curve(member), _value(member, "polysemanticity")
    headline = _value(member, "rate_bits")
    at = None if headline is None else int(abs(curve.rate_bits - headline).argmin())
    shade = plots.CONTROL_COLOUR
    if score is not None:
        share = (score - low) / (high - low) if high > low else 0.5
        (shade,) = colors.sample_colorscale(_SCALE, [share])
    points = len(curve.fvu)
    marker: Figure = {
        "size": [_HEADLINE_SIZE if i == at else 4 for i in range(points)],
        "color": shade if score is None else [score] * points,
    }
    if score is not None:
        marker["coloraxis"] = "coloraxis"
    return {
        "type": "scatter",
        "mode": "lines+markers+text",
        "name": member.name,
        "x": curve.rate_bits.tolist(),
        "y": curve.fvu.tolist(),
        "text": [label if i == at else "" for i in range(points)],
        "customdata": curve.bin_width.tolist(),
        "hovertemplate": f"<b>{member.name}</b><br>%{{x:.4g}} bits<br>fvu %{{y:.4g}}"
        "<br>bin width %{customdata:.3g}<extra></extra>",
        "line": {
            "color": shade,
            "width": 1.6,
            "dash": "dot" if member.is_control else "solid",
        },
        "marker": marker,
        "cliponaxis": False,
    }


def _logs(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return logarithms; what has none is not drawn, and stands with the least."""
    least = min((value for value in values if value > 0), default=1.0)
    return np.log(np.maximum(values, least))


def _value(member: MemberReport, name: str) -> float | None:
    scalar = member.scalars().get(name)
    return None if scalar is None else scalar.value
