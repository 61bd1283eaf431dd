"""What `show` lists and what a run prints at its end, as plain values and text."""

import io
import json
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table

from storage import artifacts
from tasks import evaluation
from tasks.plan import Plan, Step
from tasks.report.comparison import Verdict, verdict
from tasks.reporting import PAGE
from trilemma.metrics.scalar import Scalar

_COLUMNS = (
    ("rate_bits", "rate_bits"),
    ("fvu", "fvu"),
    ("l0", "l0"),
    ("polysemanticity", "polysem."),
    ("delta_ce", "delta_ce"),
    ("dead_fraction", "dead"),
)
_WIDTH = 140


def states(plan: Plan) -> list[dict[str, Any]]:
    """Return the state of each step, in the shape that `show --json` prints."""
    return [
        {
            "stage": step.stage,
            "name": step.name,
            "key": step.key,
            "state": _state(step),
            "seconds": _seconds(step),
            "bytes": _bytes(step),
            "path": step.location.place.url,
        }
        for step in plan.steps
    ]


def states_text(plan: Plan) -> str:
    """Return the same as a table."""
    table = Table("stage", "name", "key", "state", box=None, pad_edge=False)
    table.add_column("seconds", justify="right")
    table.add_column("MiB", justify="right")
    for row in states(plan):
        table.add_row(
            row["stage"],
            row["name"],
            row["key"],
            row["state"],
            "-" if row["seconds"] is None else f"{row['seconds']:.1f}",
            "-" if row["bytes"] is None else f"{row['bytes'] / 2**20:.1f}",
        )
    return _text(table)


def ending_text(
    plan: Plan, cached: tuple[str, ...], made: tuple[str, ...], seconds: float
) -> str:
    """Return where the time went, the family's table and the report's path.

    `cached` and `made` are the titles of what the command found and of what it did.
    """
    parts = [_time_text(plan, set(cached), set(made), seconds), _family_text(plan)]
    reporting = plan.step("reporting")
    if _manifest(reporting) is not None:
        reporting.fetch()
        parts.append(f"report: {reporting.folder / PAGE}\n")
    return "\n".join(part for part in parts if part)


def _time_text(plan: Plan, cached: set[str], made: set[str], seconds: float) -> str:
    table = Table(
        "stage",
        title="where the time went",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("seconds", justify="right")
    table.add_column("cached")
    spent = 0.0
    for stage in dict.fromkeys(step.stage for step in plan.steps):
        steps = plan.of(stage)
        if not any(step.title in cached | made for step in steps):
            table.add_row(stage, "-", "-")
            continue
        took = [_seconds(step) or 0.0 for step in steps if step.title in made]
        # The SAEs of a family train side by side, so their times overlap.
        this = max(took, default=0.0) if stage == "training" else sum(took)
        spent += this
        count = sum(step.title in cached for step in steps)
        table.add_row(stage, f"{this:.1f}", f"{count} of {len(steps)}")
    table.add_row("Prefect, imports", f"{max(seconds - spent, 0.0):.1f}", "")
    table.add_row("all", f"{seconds:.1f}", f"{len(cached)} of {len(plan.steps)}")
    return _text(table)


def _family_text(plan: Plan) -> str:
    table = Table(
        "SAE", title="the family", title_justify="left", box=None, pad_edge=False
    )
    for _, heading in _COLUMNS:
        table.add_column(heading, justify="right")
    table.add_column("PCA at this rate", justify="right")
    found = False
    for member in plan.run.family():
        step = plan.step("evaluation", member.name)
        if _manifest(step) is None:
            continue
        found = True
        measured = evaluation.read_metrics(step)
        cells = [_cell(measured["metrics"].get(name)) for name, _ in _COLUMNS]
        pca, fvu = measured["controls"]["pca"]["fvu"], measured["metrics"]["fvu"]
        found_of = verdict(
            Scalar(**fvu),
            Scalar(**pca),
            control="pca",
            metric="fvu",
            kept=evaluation.read_parts(step),
        )
        wins = " PCA wins" if found_of is Verdict.CONTROL_LOWER else ""
        table.add_row(member.name, *cells, _cell(pca) + wins)
    return _text(table) if found else ""


def _cell(scalar: dict[str, Any] | None) -> str:
    if scalar is None or scalar["value"] is None:
        return "–"
    text = f"{scalar['value']:.4g}"
    if scalar["ci_low"] is None or scalar["ci_high"] is None:
        return text
    return f"{text} ±{(scalar['ci_high'] - scalar['ci_low']) / 2:.2g}"


def _state(step: Step) -> str:
    """Return a step's state; failed if its own manifest cannot be read."""
    if _is_damaged(step):
        return "failed"
    # A damaged parent counts as one that is gone: it has to be made again.
    whole = {k: v for k, v in step.parents.items() if not _is_damaged(v)}
    present = dict.fromkeys(step.parents) | replace(step, parents=whole).present()
    return artifacts.state_of(step.location, step.manifest(), present)


def _is_damaged(step: Step) -> bool:
    try:
        step.manifest()
    except artifacts.ArtifactError:
        return True
    return False


def _manifest(step: Step) -> artifacts.Manifest | None:
    return None if _is_damaged(step) else step.manifest()


def _seconds(step: Step) -> float | None:
    ran = artifacts.read_environment(step.location.place)
    return None if ran is None else ran.seconds


def _bytes(step: Step) -> int | None:
    manifest = _manifest(step)
    return None if manifest is None else sum(f.bytes for f in manifest.files.values())


def _text(table: Table) -> str:
    console = Console(file=io.StringIO(), width=_WIDTH, no_color=True)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def states_json(plan: Plan) -> str:
    """Return the states as JSON text."""
    return json.dumps(states(plan), indent=2)
