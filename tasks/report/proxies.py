"""What measures of polysemanticity pass, as `python -m benchmarks.proxies` found."""

import functools
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from tasks.report.formatting import MISSING
from tasks.report.records import Json, Report

_DATA = Path(__file__).parent / "proxies.json"


class ProxyRow(NamedTuple):
    """One measure in the table of the harness."""

    measure: str
    needs_concepts: bool
    marks: tuple[str, ...]
    """"yes", "no" or "n/a" for each of the conditions, in their order."""
    correlations: tuple[str, ...]
    """With the truth, over conjunctive and disjunctive merges."""
    planted: tuple[tuple[str, str], ...]
    """The same for merges planted in each SAE of the report."""


def digest() -> str:
    """Return the SHA-256 of the table's file."""
    return hashlib.sha256(_DATA.read_bytes()).hexdigest()


def conditions() -> dict[str, str]:
    """Return each condition's name and what it asks."""
    found: dict[str, str] = _table()["conditions"]
    return found


def rows(report: Report) -> list[ProxyRow]:
    """Return the table, with what planting merges in the report's SAEs showed."""
    planted = [
        {seen["measure"]: seen for seen in member.planted}
        for member in report.members
        if member.planted
    ]
    return [
        ProxyRow(
            row["measure"],
            row["needs_concepts"],
            tuple(_mark(row, name) for name in conditions()),
            _correlations(row),
            tuple(_correlations(seen.get(row["measure"], {})) for seen in planted),
        )
        for row in _table()["measures"]
    ]


def verdict(method: str) -> str:
    """Return which conditions a headline passes and which not, by its method.

    A method begins with the measure's name; one that was never tried has no verdict.
    """
    for row in _table()["measures"]:
        if method.startswith((f"{row['measure']},", f"{row['measure']};")):
            failed = [name for name in conditions() if _mark(row, name) == "no"]
            return (
                f"{row['measure']} passes {', '.join(row['passed'])} and fails "
                f"{', '.join(failed) or 'none'}"
            )
    return ""


def _mark(row: Json, condition: str) -> str:
    if condition in row["not_applicable"]:
        return "n/a"
    return "yes" if condition in row["passed"] else "no"


def _correlations(row: Json) -> tuple[str, str]:
    conjunctive, disjunctive = (
        MISSING if value is None else f"{value:.2f}"
        for value in (row.get("conjunctive"), row.get("disjunctive"))
    )
    return conjunctive, disjunctive


@functools.cache
def _table() -> Json:
    table: Json = json.loads(_DATA.read_text(encoding="utf-8"))
    return table
