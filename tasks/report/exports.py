"""The report's data beside its pages: JSON and two Parquet tables."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.report import labels
from tasks.report.records import MemberReport, Report
from tasks.report.statistics import Statistics

_FAMILY = pa.schema(
    [
        ("member", pa.string()),
        ("kind", pa.string()),
        ("is_control", pa.bool_()),
        ("source", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("n", pa.int64()),
        ("unit", pa.string()),
        ("method", pa.string()),
        ("metric_version", pa.int64()),
        ("seed", pa.int64()),
        ("reason", pa.string()),
    ]
)
_INTEGERS = ("latent", "num_fired")
_STRINGS = ("member", "state", "explanation")


def write(report: Report, found: Sequence[Statistics], folder: Path) -> None:
    """Write `report.json`, `family.parquet` and `latents.parquet`.

    The JSON holds everything but the columns of the latents, which are in Parquet, and
    the sums over documents, of which it holds the statistics made from them.
    """
    members = [
        {
            f.name: getattr(member, f.name)
            for f in fields(member)
            if f.name not in ("latents", "parts")
        }
        for member in report.members
    ]
    values = {f.name: getattr(report, f.name) for f in fields(report)}
    text = json.dumps(
        values | {"members": members, "statistics": _named(found)},
        allow_nan=False,
        ensure_ascii=False,
        indent=1,
        sort_keys=True,
    )
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    family = pa.Table.from_pylist(list(_family_rows(report)), schema=_FAMILY)
    pq.write_table(family, folder / "family.parquet")
    pq.write_table(_latents(report), folder / "latents.parquet")


def _named(value: Any) -> Any:
    """Return named tuples as mappings, all the way down, as JSON has them."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _named(value._asdict())
    if isinstance(value, dict):
        return {key: _named(inner) for key, inner in value.items()}
    return [_named(inner) for inner in value] if isinstance(value, list) else value


# Any: rows of mixed JSON scalars, typed by the schema above.
def _family_rows(report: Report) -> Iterator[dict[str, Any]]:
    """Yield one row for each scalar: of the SAE itself, then of its controls."""
    for member in report.members:
        sources = {"sae": member.metrics, **member.controls}
        for source, metrics in sources.items():
            for metric, scalar in metrics.items():
                yield {
                    "member": member.name,
                    "kind": member.kind,
                    "is_control": member.is_control,
                    "source": source,
                    "metric": metric,
                    **scalar,
                }


def _latents(report: Report) -> pa.Table:
    names = list(dict.fromkeys(name for m in report.members for name in m.latents))
    columns: dict[str, list[Any]] = {
        name: [] for name in ("member", *names, "explanation", "predicate_f1")
    }
    for member in report.members:
        texts, scores = _explained(member)
        latents = member.column("latent")
        columns["member"] += [member.name] * member.num_latents
        columns["explanation"] += [texts.get(latent) for latent in latents]
        columns["predicate_f1"] += [scores.get(latent) for latent in latents]
        for name in names:
            columns[name] += member.column(name)
    schema = pa.schema([(name, _column_type(name)) for name in columns])
    return pa.Table.from_pydict(columns, schema=schema)


def _explained(member: MemberReport) -> tuple[dict[int, str], dict[int, float]]:
    texts = {
        e["latent"]: e["text"]
        for e in member.explanations
        if e["status"] == labels.EXPLAINED
    }
    scores = {
        e["latent"]: e["scores"][labels.F1]["value"]
        for e in member.explanations
        if labels.F1 in e["scores"]
    }
    return texts, scores


def _column_type(name: str) -> pa.DataType:
    if name in _INTEGERS:
        return pa.int64()
    return pa.string() if name in _STRINGS else pa.float64()
