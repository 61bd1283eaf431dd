"""The rows of the report's tables, with every number already put into words."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tasks.report import comparison, definitions, formatting, labels
from tasks.report.comparison import Subject, Verdict
from tasks.report.definitions import Definition
from tasks.report.records import Json, MemberReport, Report
from trilemma.metrics.scalar import Scalar


class Cell(NamedTuple):
    """One measured number."""

    text: str
    interval: str
    order: float | None
    """What a column is sorted by; None goes last."""
    recipe: str


class Marked(NamedTuple):
    """A cell, and the marks that stand beside it."""

    cell: Cell
    marks: tuple[str, ...]


class FamilyRow(NamedTuple):
    """One SAE or control in the family table."""

    subject: Subject
    cells: tuple[tuple[str, Cell], ...]
    """(metric, cell), in the order of the columns."""


class MetricGroup(NamedTuple):
    """Metrics of one kind in the full table."""

    name: str
    rows: tuple[tuple[Definition, str, tuple[Cell, ...]], ...]
    """(what it is, its unit, one cell for each subject)."""


class UndefinedRow(NamedTuple):
    """One metric that has no value."""

    metric: str
    reason: str
    names: tuple[str, ...]
    """The SAEs and controls for which that is so."""


class Beside(NamedTuple):
    """One number of an SAE beside that of its controls."""

    own: Cell
    pca: Marked
    random: Marked


class ControlRow(NamedTuple):
    """One SAE beside the controls on equal terms."""

    name: str
    rate: Cell
    l0: Cell
    numbers: tuple[Beside, ...]
    """In the order of `comparison.CONTROLLED`."""
    monosemantic_rate: Cell
    """Of a toy's own features at this l0; empty where they are not known."""
    monosemantic_fvu: Cell
    monosemantic_pairs: tuple[tuple[Cell, Cell], ...]
    """Its l0 and mse, each beside what theory says."""


class SharedRow(NamedTuple):
    """Two clusters that occur together, and the latent of an SAE that merges them."""

    name: str
    tokens: tuple[str, ...]
    """Those that tell most of either cluster."""
    numbers: tuple[str, ...]
    """Lift in the text and in latents."""
    latent: int
    shares: tuple[str, ...]
    """The latent's of the sharing; of its activation, on either cluster."""


class SplitRow(NamedTuple):
    """What the latents of one SAE became in a wider one."""

    narrow: str
    wide: str
    cells: tuple[Cell, ...]
    """In the order of `labels.SPLITS`."""
    most_split: tuple[str, ...]
    """The latents of most children, with these."""


class LatentRow(NamedTuple):
    """One explained latent in the list of pages."""

    member: str
    latent: int
    href: str
    density: Cell
    is_explained: bool
    text: str
    """The explanation, or why there is none."""
    f1: Cell
    shuffled: Cell


class ExplainedRow(NamedTuple):
    """What explanations of one SAE's sampled latents reached."""

    member: str
    num_sampled: int
    num_explained: int
    median_f1: Cell
    median_shuffled: Cell


def cell(scalar: Scalar | None) -> Cell:
    """Return a scalar as a table shows it."""
    return Cell(
        formatting.value(scalar),
        formatting.interval(scalar),
        None if scalar is None else scalar.value,
        formatting.recipe(scalar),
    )


def plain(value: float | None, recipe: str = "") -> Cell:
    """Return a number without an interval as a table shows it."""
    return Cell(formatting.number(value), "", value, recipe)


def columns(subjects: Sequence[Subject]) -> list[Definition]:
    """Return the metrics of the family table: the headlines that anyone measured."""
    return [
        definitions.definition(name)
        for name in definitions.HEADLINES
        if any(name in subject.metrics for subject in subjects)
    ]


def family(subjects: Sequence[Subject]) -> list[FamilyRow]:
    """Return the family table's rows."""
    names = [column.name for column in columns(subjects)]
    return [
        FamilyRow(
            subject, tuple((name, cell(subject.metrics.get(name))) for name in names)
        )
        for subject in subjects
    ]


def full(subjects: Sequence[Subject]) -> list[MetricGroup]:
    """Return every metric that anyone measured, grouped, one column a subject."""
    present = dict.fromkeys(name for s in subjects for name in s.metrics)
    known = [metric.name for metric in definitions.METRICS]
    ordered = [name for name in known if name in present]
    ordered += [name for name in present if name not in known]
    metrics = [definitions.definition(name) for name in ordered]
    return [
        MetricGroup(
            group,
            tuple(
                (
                    metric,
                    _unit(metric.name, subjects),
                    tuple(
                        cell(subject.metrics.get(metric.name)) for subject in subjects
                    ),
                )
                for metric in metrics
                if metric.group == group
            ),
        )
        for group in dict.fromkeys(metric.group for metric in metrics)
    ]


def undefined(subjects: Sequence[Subject]) -> list[UndefinedRow]:
    """Return what has no value and why, with all to whom the same thing happened."""
    names: dict[tuple[str, str], list[str]] = {}
    for subject in subjects:
        for metric, scalar in subject.metrics.items():
            if scalar.reason is not None:
                names.setdefault((metric, scalar.reason), []).append(subject.name)
    return [
        UndefinedRow(metric, reason, tuple(found))
        for (metric, reason), found in names.items()
    ]


def controls(report: Report) -> list[ControlRow]:
    """Return each trained SAE beside its controls on equal terms."""
    rows = []
    for member in report.members:
        if member.is_control or not member.controls:
            continue
        own = member.scalars()
        monosemantic = member.control("monosemantic")
        rows.append(
            ControlRow(
                name=member.name,
                rate=cell(own.get("rate_bits")),
                l0=cell(own.get("l0")),
                numbers=tuple(
                    Beside(
                        cell(own.get(metric)),
                        _control(member, "pca", metric),
                        _control(member, "frozen_random", metric),
                    )
                    for metric in comparison.CONTROLLED
                ),
                monosemantic_rate=cell(monosemantic.get("rate_bits")),
                monosemantic_fvu=cell(monosemantic.get("fvu")),
                monosemantic_pairs=tuple(
                    (
                        cell(monosemantic.get(axis)),
                        cell(monosemantic.get(f"{axis}_theory")),
                    )
                    for axis in ("l0", "mse")
                ),
            )
        )
    return rows


def _control(member: MemberReport, control: str, metric: str) -> Marked:
    """Return a control's cell, with the verdict unless the SAE is the lower one."""
    shown = cell(member.control(control).get(metric))
    verdict = comparison.verdict_of(member, control, metric)
    if verdict is None or verdict is Verdict.SAE_LOWER:
        return Marked(shown, ())
    return Marked(shown, (verdict.value,))


def shared(report: Report) -> list[SharedRow]:
    """Return a row for each pair of clusters that occur together most."""
    return [
        SharedRow(
            member.name,
            tuple(
                ", ".join(map(formatting.visible, pair[f"{side}_tokens"]))
                for side in ("first", "second")
            ),
            tuple(formatting.number(pair[key]) for key in ("together", "sharing")),
            pair["latent"],
            tuple(
                formatting.number(pair[f"{of}_share"])
                for of in ("latent", "first", "second")
            ),
        )
        for member in report.members
        if not member.is_control
        for pair in member.shared
    ]


def splits(report: Report) -> list[SplitRow]:
    """Return a row for each pair of SAEs of different widths."""
    rows = []
    for couple in report.splits:
        found = scalars(couple["metrics"])
        rows.append(
            SplitRow(
                couple["narrow"],
                couple["wide"],
                tuple(cell(found[name]) for name in labels.SPLITS),
                tuple(
                    f"{split['latent']}: {', '.join(map(str, split['children']))}"
                    for split in couple["most_split"]
                ),
            )
        )
    return rows


def latents(report: Report) -> list[LatentRow]:
    """Return every explained latent of every SAE."""
    rows = []
    for member in report.members:
        for explanation in member.explanations:
            scores = scalars(explanation["scores"])
            rows.append(
                LatentRow(
                    member=member.name,
                    latent=explanation["latent"],
                    href=f"latents/{member.slug}/{explanation['latent']}.html",
                    density=plain(
                        explanation["density"], "share of tokens it fires on"
                    ),
                    is_explained=_is_explained(explanation),
                    text=explanation["text"],
                    f1=cell(scores.get(labels.F1)),
                    shuffled=cell(scores.get(labels.SHUFFLED_F1)),
                )
            )
    return rows


def explained(report: Report) -> list[ExplainedRow]:
    """Return, for each SAE, the medians over the latents that were sampled."""
    rows = []
    for member in report.members:
        scored = [scalars(explanation["scores"]) for explanation in member.explanations]
        f1s = _values(scored, labels.F1)
        if member.explanations:
            rows.append(
                ExplainedRow(
                    member.name,
                    len(scored),
                    sum(map(_is_explained, member.explanations)),
                    _median(f1s),
                    _median(_values(scored, labels.SHUFFLED_F1)),
                )
            )
    return rows


def settings(member: MemberReport) -> list[tuple[str, str]]:
    """Return an SAE's configuration as (key, value) in words."""
    return [
        (key, formatting.MISSING if value is None else str(value))
        for key, value in sorted(member.config.items())
    ]


def scalars(scores: Mapping[str, Mapping[str, object]]) -> dict[str, Scalar]:
    """Return the scores of an explanation as scalars."""
    # Scalar checks nothing, so the mapping's values pass as they were written.
    return {name: Scalar(**value) for name, value in scores.items()}  # type: ignore[arg-type]


def _is_explained(explanation: Json) -> bool:
    return bool(explanation["status"] == labels.EXPLAINED)


def _values(scored: Sequence[Mapping[str, Scalar]], name: str) -> list[float]:
    found = [scores[name].value for scores in scored if name in scores]
    return [value for value in found if value is not None]


def _median(values: Sequence[float]) -> Cell:
    recipe = f"median over the {len(values)} sampled latents that have a score"
    return plain(statistics.median(values), recipe) if values else plain(None)


def _unit(name: str, subjects: Sequence[Subject]) -> str:
    for subject in subjects:
        if name in subject.metrics:
            unit = subject.metrics[name].unit
            return "" if unit == "1" else unit
    return ""
