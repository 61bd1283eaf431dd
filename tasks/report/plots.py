"""The report's Plotly figures, as plain values: pairs of axes, training curves."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tasks.report import definitions
from tasks.report.records import MemberReport, Report
from trilemma.metrics.scalar import Scalar

# Any: Plotly's schema for traces and layouts is open; the tests validate it.
Figure = dict[str, Any]

COLOURS = (
    "#3b82c4",
    "#cf7518",
    "#1a9c72",
    "#c2659b",
    "#8a6fd1",
    "#c8502f",
    "#2a9db8",
    "#8a8d2f",
)
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "square", "triangle-up", "star", "pentagon", "hexagon")
CONTROL_COLOUR = "#828a96"
PAIRS = (
    ("rate_bits", "fvu"),
    ("rate_bits", "polysemanticity"),
    ("polysemanticity", "fvu"),
)
CURVES = (
    ("fvu", "fvu", "log"),
    ("l0", "l0 (latents per token)", "log"),
    ("dead_fraction", "dead latents (fraction)", "linear"),
)
_MAX_LABELLED = 16


class Plot(NamedTuple):
    """One figure and where it stands in the page."""

    div: str
    title: str
    """Names the plot to a reader who cannot see it."""
    figure: Figure


class LineStyle(NamedTuple):
    """How one SAE's training curve is drawn."""

    name: str
    colour: str
    dash: str


def scatters(report: Report) -> list[Plot]:
    """Return rate, distortion and polysemanticity against each other, in pairs."""
    plots = []
    for x, y in PAIRS:
        traces = _scatter_traces(report.members, x, y)
        if traces:
            layout = _layout(_axis_title(report, x), _axis_title(report, y))
            layout["legend"] = {"orientation": "h", "y": -0.2, "yanchor": "top"}
            plots.append(
                Plot(f"plot-{x}-{y}", f"{y} against {x}", _figure(traces, layout))
            )
    return plots


def curves(report: Report) -> list[Plot]:
    """Return the training curves, one plot for each logged quantity."""
    styles = line_styles(report)
    plots = []
    for column, title, scale in CURVES:
        traces = [
            _line(member, column, style)
            for member, style in zip(report.members, styles, strict=True)
            if any(column in row for row in member.curve)
        ]
        if traces:
            layout = _layout("tokens", title)
            layout["yaxis"]["type"] = scale
            layout["showlegend"] = False
            plots.append(
                Plot(
                    f"plot-curve-{column}",
                    f"{title} while training",
                    _figure(traces, layout),
                )
            )
    return plots


def line_styles(report: Report) -> list[LineStyle]:
    """Return a colour and a dash for each SAE, which no two of the first 32 share."""
    return [
        LineStyle(
            member.name,
            COLOURS[index % len(COLOURS)],
            DASHES[index // len(COLOURS) % len(DASHES)],
        )
        for index, member in enumerate(report.members)
    ]


def _scatter_traces(members: Sequence[MemberReport], x: str, y: str) -> list[Figure]:
    trained = [member for member in members if not member.is_control]
    kinds = list(dict.fromkeys(member.kind for member in trained))
    everyone = _points([(m.name, m.scalars()) for m in trained], x, y)
    middle = statistics.fmean([*(x.value for _, x, _ in everyone if x.value), 0.0])
    is_labelled = len(trained) <= _MAX_LABELLED
    traces = []
    for index, kind in enumerate(kinds):
        family = [member for member in trained if member.kind == kind]
        points = _points([(m.name, m.scalars()) for m in family], x, y)
        if not points:
            continue
        colour = COLOURS[index % len(COLOURS)]
        trace = _trace(definitions.KIND_LABELS.get(kind, kind), points)
        trace["mode"] = "lines+markers+text" if is_labelled else "lines+markers"
        trace["text"] = [name.removeprefix(f"{kind}-") for name, _, _ in points]
        trace["textposition"] = _label_sides(points, index, middle)
        trace["textfont"] = {"color": colour}
        trace["cliponaxis"] = False
        trace["line"] = {"color": colour, "width": 1.5}
        trace["marker"] = {
            "color": colour,
            "size": 10,
            "symbol": SYMBOLS[index % len(SYMBOLS)],
        }
        traces.append(trace)
    controls = [(m.name, m.scalars()) for m in members if m.is_control]
    pca = [(f"PCA at the rate of {m.name}", m.control("pca")) for m in trained]
    for label, rows, symbol, dash in (
        ("frozen-random", controls, "circle-x-open", "dot"),
        ("PCA", pca, "diamond-open", "dash"),
    ):
        points = _points(rows, x, y)
        if points:
            trace = _trace(label, points)
            trace["mode"] = "lines+markers"
            trace["line"] = {"color": CONTROL_COLOUR, "width": 1.5, "dash": dash}
            trace["marker"] = {
                "color": CONTROL_COLOUR,
                "size": 10,
                "symbol": symbol,
                "line": {"width": 2},
            }
            traces.append(trace)
    return traces


def _points(
    rows: Sequence[tuple[str, dict[str, Scalar]]], x: str, y: str
) -> list[tuple[str, Scalar, Scalar]]:
    """Return (name, x, y) of the rows that have both, from left to right."""
    points = [
        (name, scalars[x], scalars[y])
        for name, scalars in rows
        if x in scalars
        and y in scalars
        and scalars[x].value is not None
        and scalars[y].value is not None
    ]
    return sorted(points, key=lambda point: point[1].value or 0.0)


def _trace(label: str, points: Sequence[tuple[str, Scalar, Scalar]]) -> Figure:
    return {
        "type": "scatter",
        "name": label,
        "x": [x.value for _, x, _ in points],
        "y": [y.value for _, _, y in points],
        "error_x": _error([x for _, x, _ in points]),
        "error_y": _error([y for _, _, y in points]),
        "customdata": [name for name, _, _ in points],
        "hovertemplate": "<b>%{customdata}</b><br>x %{x:.4g}<br>y %{y:.4g}"
        "<extra></extra>",
    }


def _error(scalars: Sequence[Scalar]) -> Figure:
    above, below = [], []
    for value, low, high, *_ in scalars:
        above.append(None if value is None or high is None else high - value)
        below.append(None if value is None or low is None else value - low)
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "thickness": 1.2,
        "width": 3,
    }


def _line(member: MemberReport, column: str, style: LineStyle) -> Figure:
    rows = [row for row in member.curve if row.get(column) is not None]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": style.name,
        "x": [row["tokens"] for row in rows],
        "y": [row[column] for row in rows],
        "line": {"color": style.colour, "dash": style.dash, "width": 1.8},
        "hovertemplate": f"<b>{style.name}</b><br>%{{x:,}} tokens<br>%{{y:.4g}}"
        "<extra></extra>",
    }


def _axis_title(report: Report, name: str) -> str:
    """Return a metric's name, with its unit if it has one."""
    for member in report.members:
        scalar = member.scalars().get(name)
        if scalar is not None and scalar.unit not in ("", "1"):
            return f"{name} ({scalar.unit})"
    return name


def _layout(x_title: str, y_title: str) -> Figure:
    return {
        "height": 420,
        "margin": {"l": 60, "r": 20, "t": 30, "b": 50},
        "hovermode": "closest",
        "hoverlabel": {"namelength": -1},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": True,
        "xaxis": _axis(x_title),
        "yaxis": _axis(y_title),
    }


def _axis(title: str) -> Figure:
    return {
        "title": {"text": title, "standoff": 10},
        "automargin": True,
        "zeroline": False,
        "ticks": "outside",
    }


def _figure(traces: list[Figure], layout: Figure) -> Figure:
    return {"data": traces, "layout": layout}
