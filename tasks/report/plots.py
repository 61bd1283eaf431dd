"""The report's Plotly figures, as plain values: pairs of axes, training curves."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tasks.report import label_places, labels
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
    ("eval_fvu", "held-out fvu", "log"),
    ("eval_l0", "held-out l0 (latents per token)", "log"),
    ("eval_silent_fraction", "latents silent on held-out rows (fraction)", "linear"),
)
_MAX_LABELLED = 16
# What is left for the points of one of three plots in a row; the places of their names
# need no more than that.
_WIDTH, _HEIGHT = 250.0, 300.0


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
            frame = layout(_axis_title(report, x), _axis_title(report, y))
            frame["legend"] = {"orientation": "h", "y": -0.2, "yanchor": "top"}
            plots.append(
                Plot(f"plot-{x}-{y}", f"{y} against {x}", figure(traces, frame))
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
            if any(row.get(column) is not None for row in member.curve)
        ]
        if traces:
            frame = layout("tokens", title)
            frame["yaxis"] |= {"type": scale, "tickformat": "~g"}
            frame["showlegend"] = False
            plots.append(
                Plot(
                    f"plot-curve-{column}",
                    f"{title} while training",
                    figure(traces, frame),
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


def layout(x_title: str, y_title: str) -> Figure:
    """Return what all plots have in common."""
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


def figure(traces: list[Figure], layout: Figure) -> Figure:
    """Return traces over axes, as Plotly reads them."""
    return {"data": traces, "layout": layout}


class _Point(NamedTuple):
    name: str
    x: float
    y: float
    x_scalar: Scalar
    y_scalar: Scalar


def _scatter_traces(members: Sequence[MemberReport], x: str, y: str) -> list[Figure]:
    trained = [member for member in members if not member.is_control]
    traces = []
    paths = dict.fromkeys(member.path for member in trained)
    families = dict.fromkeys((member.kind, member.path) for member in trained)
    for index, (kind, path) in enumerate(families):
        family = [m for m in trained if (m.kind, m.path) == (kind, path)]
        points = _points([(m.name, m.scalars()) for m in family], x, y)
        if points:
            trace = _family_trace(kind, points, index=index)
            if len(paths) > 1:
                trace["name"] += f", {path}"
            traces.append(trace)
    num_named = len(traces)
    targets = dict.fromkeys(member.target for member in members)
    for target in targets:
        traces += _control_traces(
            [member for member in members if member.target == target],
            x,
            y,
            suffix=f", {target}" if len(targets) > 1 else "",
        )
    if len(trained) <= _MAX_LABELLED:
        _place_names(traces[:num_named], traces[num_named:])
    return traces


def _place_names(named: Sequence[Figure], others: Sequence[Figure]) -> None:
    """Let the traces that have names show them where they cover each other least."""
    drawn = [*named, *others]
    x, y = ([value for trace in drawn for value in trace[axis]] for axis in ("x", "y"))
    names = [name for trace in named for name in trace["text"]]
    names += [""] * (len(x) - len(names))
    places = iter(label_places.choose(x, y, names, width=_WIDTH, height=_HEIGHT))
    for trace in named:
        trace["mode"] = "lines+markers+text"
        trace["textposition"] = [next(places) for _ in trace["text"]]


def _control_traces(
    members: Sequence[MemberReport], x: str, y: str, *, suffix: str
) -> list[Figure]:
    """Return the controls of one target."""
    random = [(m.name, m.scalars()) for m in members if m.is_control]
    pca = [
        (f"PCA at the rate of {m.name}", m.control("pca"))
        for m in members
        if not m.is_control
    ]
    traces = []
    for label, rows, symbol, dash in (
        ("frozen-random", random, "circle-x-open", "dot"),
        ("PCA", pca, "diamond-open", "dash"),
    ):
        points = _points(rows, x, y)
        if points:
            line = {"color": CONTROL_COLOUR, "width": 1.5, "dash": dash}
            trace = _trace(f"{label}{suffix}", points, line=line, symbol=symbol)
            traces.append(trace | {"mode": "lines+markers"})
    return traces


def _family_trace(kind: str, points: Sequence[_Point], *, index: int) -> Figure:
    """Return SAEs of one kind and path, named by what tells them apart."""
    colour = COLOURS[index % len(COLOURS)]
    words = [point.name.removeprefix(f"{kind}-").split("-") for point in points]
    shared = set.intersection(*map(set, words)) if len(words) > 1 else set()
    trace = _trace(
        labels.KIND_LABELS.get(kind, kind),
        points,
        line={"color": colour, "width": 1.5},
        symbol=SYMBOLS[index % len(SYMBOLS)],
    )
    return trace | {
        "mode": "lines+markers",
        "text": [
            "-".join(w for w in each if w not in shared) or "-".join(each)
            for each in words
        ],
        "textfont": {"color": colour},
    }


def _points(
    rows: Sequence[tuple[str, dict[str, Scalar]]], x: str, y: str
) -> list[_Point]:
    """Return the rows that have both values, from left to right."""
    points = []
    for name, scalars in rows:
        across, up = scalars.get(x), scalars.get(y)
        if across is None or up is None:
            continue
        if across.value is not None and up.value is not None:
            points.append(_Point(name, across.value, up.value, across, up))
    return sorted(points, key=lambda point: point.x)


def _trace(
    label: str, points: Sequence[_Point], *, line: Figure, symbol: str
) -> Figure:
    return {
        "type": "scatter",
        "name": label,
        "x": [point.x for point in points],
        "y": [point.y for point in points],
        "error_x": _error([point.x_scalar for point in points]),
        "error_y": _error([point.y_scalar for point in points]),
        "customdata": [point.name for point in points],
        "hovertemplate": "<b>%{customdata}</b><br>x %{x:.4g}<br>y %{y:.4g}"
        "<extra></extra>",
        "line": line,
        "marker": {
            "color": line["color"],
            "size": 10,
            "symbol": symbol,
            "line": {"width": 2 if symbol.endswith("open") else 0},
        },
        "cliponaxis": False,
    }


def _error(scalars: Sequence[Scalar]) -> Figure:
    """Return bars from the value to the ends of its interval, if it has one."""
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


def _axis(title: str) -> Figure:
    return {
        "title": {"text": title, "standoff": 10},
        "automargin": True,
        "zeroline": False,
        "ticks": "outside",
    }
