"""What measures of polysemanticity pass: `python -m benchmarks.proxies`.

Writes `tasks/report/proxies.json`, which every report prints, and the table of
`docs/proxies.md`. It takes about a minute and depends on no run.
"""

import json
from pathlib import Path

from trilemma.proxies import conditions, table

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tasks/report/proxies.json"
PAGE = ROOT / "docs/proxies.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"


def main() -> None:
    """Run the harness, print the table and write it where it is read."""
    rows = []
    for row in table.rows():
        rows.append(row)
        print(row, flush=True)
    DATA.write_text(data(rows))
    before, rest = PAGE.read_text().split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(before + BEGIN + markdown(rows) + END + after)


def data(rows: list[table.Row]) -> str:
    """Return the table as the report reads it."""
    value = {
        "version": conditions.METRIC_VERSION,
        "conditions": {each.name: each.meaning for each in conditions.CONDITIONS},
        "measures": [row._asdict() for row in rows],
    }
    return json.dumps(value, indent=1) + "\n"


def markdown(rows: list[table.Row]) -> str:
    """Return the table as the page shows it; a star marks who needs the truth."""
    names = [each.name for each in conditions.CONDITIONS]
    lines = [
        "| measure | " + " | ".join(names) + " | passed | ρ and | ρ or |",
        "|---" * (len(names) + 4) + "|",
    ]
    for row in rows:
        marks = [
            "n/a" if name in row.not_applicable else "✓" if name in row.passed else ""
            for name in names
        ]
        correlations = [
            "none" if value is None else f"{value:.2f}"
            for value in (row.conjunctive, row.disjunctive)
        ]
        cells = [
            f"`{row.measure}`" + ("*" if row.needs_concepts else ""),
            *marks,
            str(len(row.passed)),
            *correlations,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
