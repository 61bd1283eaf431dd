"""The statistics of a family as rows of tables, with every number put into words."""

from typing import NamedTuple

from tasks.report import formatting
from tasks.report.statistics import Statistics
from tasks.report.tables import Cell, Marked, plain
from trilemma.metrics.comparison import Difference
from trilemma.metrics.scalar import Scalar

NOT_DISTINGUISHABLE = "not distinguishable"


class Row(NamedTuple):
    """A row of a table: its heading and its cells."""

    heading: str
    cells: tuple[Marked, ...]


class Table(NamedTuple):
    """A table and the headings of its columns."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


class Sections(NamedTuple):
    """What the page shows of one hook; a table without rows is left out."""

    hook: str
    pairs: Table
    seeds: Table
    volumes: Table
    reference: str
    matched: Table
    choices: tuple[str, ...]
    """For each range of tolerances, tight ones first, a sentence."""
    meetings: tuple[str, ...]
    """For each crossing of two curves, a sentence."""


def sections(found: Statistics) -> Sections:
    """Return the tables and the sentences of one hook."""
    return Sections(
        hook=found.hook,
        pairs=_pairs(found),
        seeds=_seeds(found),
        volumes=_volumes(found),
        reference=", ".join(
            f"{axis} {formatting.number(value)}"
            for axis, value in found.reference.items()
        ),
        matched=_matched(found),
        choices=_choices(found),
        meetings=tuple(
            f"{meeting.above} has the lower fvu above "
            f"{formatting.number(meeting.at.rate_bits)} bits/token (fvu "
            f"{formatting.number(meeting.at.fvu)}), {meeting.below} below"
            for meeting in found.meetings
        ),
    )


def _pairs(found: Statistics) -> Table:
    metrics = list(dict.fromkeys(m for pair in found.pairs for m in pair.differences))
    return Table(
        (
            "first and second SAE",
            "first dominates",
            "second dominates",
            *(f"Δ {metric}" for metric in metrics),
        ),
        tuple(
            Row(
                f"{pair.first}, {pair.second}",
                (
                    _probability(pair.first_dominates),
                    _probability(pair.second_dominates),
                    *(_difference(pair.differences.get(metric)) for metric in metrics),
                ),
            )
            for pair in found.pairs
        ),
    )


def _seeds(found: Statistics) -> Table:
    metrics = list(dict.fromkeys(m for row in found.seeds for m in row.spreads))
    return Table(
        (
            "configuration",
            "seeds",
            *(heading for metric in metrics for heading in (metric, f"sd of {metric}")),
        ),
        tuple(
            Row(
                row.name,
                (
                    Marked(plain(float(row.num_seeds)), ()),
                    *(
                        cell
                        for metric in metrics
                        for cell in (
                            _spanned(
                                row.spreads[metric].mean,
                                row.spreads[metric].ci_low,
                                row.spreads[metric].ci_high,
                                "mean over seeds, Student's t",
                            ),
                            Marked(plain(row.spreads[metric].sd), ()),
                        )
                    ),
                ),
            )
            for row in found.seeds
        ),
    )


def _volumes(found: Statistics) -> Table:
    return Table(
        ("family", "SAEs", "hypervolume"),
        tuple(
            Row(
                volume.name,
                (
                    Marked(plain(float(volume.num_saes)), ()),
                    _spanned(
                        volume.value,
                        volume.ci_low,
                        volume.ci_high,
                        "share of the box below the reference; Student's t with the "
                        "deviation of resamples of blocks of documents",
                    ),
                ),
            )
            for volume in found.volumes
        ),
    )


def _matched(found: Statistics) -> Table:
    metrics = list(dict.fromkeys(m for row in found.matched for m in row.values))
    return Table(
        (
            "first and second family",
            "rate_bits",
            *(
                heading
                for metric in metrics
                for heading in (
                    f"{metric}, first",
                    f"{metric}, second",
                    f"Δ {metric}",
                )
            ),
        ),
        tuple(
            Row(
                f"{row.first}; {row.second}",
                (
                    Marked(plain(row.rate_bits), ()),
                    *(
                        cell
                        for metric in metrics
                        for cell in (
                            Marked(plain(row.values[metric][0]), ()),
                            Marked(plain(row.values[metric][1]), ()),
                            _difference(row.differences[metric]),
                        )
                    ),
                ),
            )
            for row in found.matched
        ),
    )


def _choices(found: Statistics) -> tuple[str, ...]:
    return tuple(
        (
            f"fvu of {formatting.number(choice.low)} or more"
            if choice.high is None
            else f"fvu from {formatting.number(choice.low)} to "
            f"{formatting.number(choice.high)}"
        )
        + f": {choice.name}, at most {formatting.number(choice.rate_bits)} bits/token"
        for choice in found.choices
    )


def _probability(value: float) -> Marked:
    recipe = "share of resamples of blocks of documents, the same for all SAEs"
    return Marked(Cell(f"{value:.0%}", "", value, recipe), ())


def _difference(difference: Difference | None) -> Marked:
    if difference is None:
        return Marked(plain(None), ())
    found = _spanned(
        difference.value,
        difference.ci_low,
        difference.ci_high,
        "paired over blocks of documents",
    )
    return (
        found
        if difference.is_distinguishable
        else found._replace(marks=(NOT_DISTINGUISHABLE,))
    )


def _spanned(
    value: float, low: float | None, high: float | None, recipe: str
) -> Marked:
    scalar = Scalar(value, low, high, 0, "1", recipe, 1, None)
    return Marked(
        Cell(formatting.value(scalar), formatting.interval(scalar), value, recipe), ()
    )
