"""Write the report: an index, a page for each explained latent, and the data beside."""

import base64
import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup
from plotly import offline

from tasks.report import (
    comparison,
    exports,
    histogram,
    labels,
    latent_page,
    plots,
    proxies,
    rate_plot,
    statistics,
    statistics_tables,
    tables,
)
from tasks.report.comparison import Subject
from tasks.report.histogram import Histogram
from tasks.report.records import MemberReport, Report
from tasks.report.statistics import Statistics
from trilemma.metrics.crosscoding import SHARE_PREFIX

_TEMPLATES = Path(__file__).parent / "templates"
_SHARE_EDGES = histogram.even_edges([0.0, 1.0], num_bins=20)
_DENSITY_EDGES = histogram.log_edges(1e-6, 1.0, per_decade=4)


class Script(NamedTuple):
    """A script inlined in a page, which the page's policy allows by its hash."""

    text: Markup
    source: str
    """How a content security policy names it."""


class Latents(NamedTuple):
    """How the latents of one SAE are spread."""

    name: str
    counts: str
    """How many are alive, dead and undetermined."""
    density: Histogram | None
    concepts: Histogram | None
    shares: tuple[tuple[str, Histogram], ...]
    """Of a crosscoder each hook, and its shares of the latents' decoder norms."""


def write(report: Report, folder: Path) -> None:
    """Write the report's pages and data into a folder; equal reports, equal bytes.

    `index.html` opens from a file, loads nothing from anywhere, and links a page for
    each explained latent. `report.json`, `family.parquet` and `latents.parquet` hold
    the numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = statistics.of_report(report)
    (folder / "index.html").write_text(_index(report, found), encoding="utf-8")
    for member in report.members:
        for name, page in _latent_pages(report, member):
            path = folder / "latents" / member.slug / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(page, encoding="utf-8")
    exports.write(report, found, folder)


def _index(report: Report, found: Sequence[Statistics]) -> str:
    subjects = comparison.subjects(report)
    scatters, curves = plots.scatters(report), plots.curves(report)
    rates = rate_plot.rate_curves(report)
    figures = {plot.div: plot.figure for plot in [*scatters, *rates, *curves]}
    scripts = [_script("table.js")]
    if figures:
        plotly = Markup(offline.get_plotlyjs())
        scripts = [_inline(plotly), *scripts, _script("plots.js")]
    return (
        _environment()
        .get_template("index.html.j2")
        .render(
            report=report,
            columns=tables.columns(subjects),
            family=tables.family(subjects),
            groups=tables.full(subjects),
            undefined=tables.undefined(subjects),
            subjects=subjects,
            controls=tables.controls(report),
            controlled=comparison.CONTROLLED,
            splits=tables.splits(report),
            shared=tables.shared(report),
            scatters=scatters,
            rates=rates,
            statistics=[statistics_tables.sections(of_hook) for of_hook in found],
            num_resamples=statistics.NUM_RESAMPLES,
            curves=curves,
            line_styles=plots.line_styles(report),
            dash_arrays={
                "solid": "",
                "dash": "7 4",
                "dot": "2 3",
                "dashdot": "7 3 2 3",
            },
            figures=figures,
            polysemanticity_method=_method(subjects, "polysemanticity"),
            polysemanticity_verdict=proxies.verdict(
                _method(subjects, "polysemanticity")
            ),
            conditions=proxies.conditions(),
            proxies=proxies.rows(report),
            planted=[member.name for member in report.members if member.planted],
            latents=_latents(report),
            explained=tables.explained(report),
            explanations=tables.latents(report),
            settings=[(m.name, tables.settings(m)) for m in report.members],
            scripts=scripts,
        )
    )


def _latent_pages(report: Report, member: MemberReport) -> Iterator[tuple[str, str]]:
    """Yield the file name and the text of each explained latent's page."""
    template = _environment().get_template("latent.html.j2")
    scripts = [_script("keys.js")]
    for page in latent_page.pages(member):
        text = template.render(report=report, member=member, page=page, scripts=scripts)
        yield f"{page.latent}.html", text


def _method(subjects: Sequence[Subject], name: str) -> str:
    """Return how a metric was measured; empty if it was not."""
    methods = [s.metrics[name].method for s in subjects if name in s.metrics]
    return next(iter(methods), "")


def _latents(report: Report) -> list[Latents]:
    """Return how each SAE's latents are spread, over the same edges for all SAEs."""
    concepts = [_concepts(report, member) for member in report.members]
    pooled = [value for values in concepts for value in values]
    edges = histogram.even_edges(pooled, num_bins=24)
    return [
        Latents(
            member.name,
            _states(member),
            histogram.of_values(
                [density or None for density in member.column("density")],
                edges=_DENSITY_EDGES,
                label=f"{member.name}: latents by density",
            ),
            histogram.of_values(
                values, edges=edges, label=f"{member.name}: latents by concepts"
            ),
            tuple(_shares(member)),
        )
        for member, values in zip(report.members, concepts, strict=True)
    ]


def _concepts(report: Report, member: MemberReport) -> list[float | None]:
    if report.has_features:
        return member.column("participation")
    pairs = zip(member.column("n_eff"), member.column("n_eff_null"), strict=True)
    return [ours / null if ours and null else None for ours, null in pairs]


def _shares(member: MemberReport) -> Iterator[tuple[str, Histogram]]:
    """Yield each hook of a crosscoder, and where live latents have their decoders."""
    states = member.column("state")
    for hook in member.crosscoded:
        shares = zip(member.column(f"{SHARE_PREFIX}{hook}"), states, strict=True)
        found = histogram.of_values(
            [share if state == "alive" else None for share, state in shares],
            edges=_SHARE_EDGES,
            label=f"{member.name}: live latents by their decoder's share at {hook}",
        )
        if found is not None:
            yield hook, found


def _states(member: MemberReport) -> str:
    states = member.column("state")
    return ", ".join(
        f"{states.count(state):,} {state}"
        for state in ("alive", "dead", "undetermined")
        if state in states
    )


@functools.cache
def _environment() -> jinja2.Environment:
    """Return the templates; every value that is not marked safe is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["style"] = Markup(_read("style.css"))
    environment.globals["labels"] = labels
    return environment


def _script(name: str) -> Script:
    return _inline(Markup(_read(name)))


def _inline(text: Markup) -> Script:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Script(text, f"'sha256-{digest}'")


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")
