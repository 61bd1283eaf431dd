"""The harness's table: what each measure passes, and how it follows planted merges."""

from collections.abc import Iterator
from typing import NamedTuple

from trilemma.proxies.conditions import CONDITIONS, correlation
from trilemma.proxies.measures import MEASURES, Measure
from trilemma.proxies.merges import SHORT


class Row(NamedTuple):
    """One measure."""

    measure: str
    needs_concepts: bool
    """Whether it can be had only where true concepts are known."""
    passed: tuple[str, ...]
    """Names of the conditions that it meets."""
    not_applicable: tuple[str, ...]
    """Names of those that it would meet by construction, which count for nothing."""
    conjunctive: float | None
    """Spearman's correlation with the truth over conjunctive merges; None where it
    does not vary."""
    disjunctive: float | None


def rows(measures: tuple[Measure, ...] = MEASURES) -> Iterator[Row]:
    """Yield the table, row by row, since each takes seconds."""
    for measure in measures:
        asked = [each for each in CONDITIONS if each.applies(measure)]
        yield Row(
            measure.name,
            measure.needs_concepts,
            tuple(each.name for each in asked if each.holds(measure)),
            tuple(each.name for each in CONDITIONS if each not in asked),
            *(correlation(measure, kind) for kind in SHORT.values()),
        )
