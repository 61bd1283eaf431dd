"""What is derived of measures, the harness finds; and what it finds is kept."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks import proxies
from trilemma.proxies import conditions, table, values
from trilemma.proxies.conditions import CONDITIONS
from trilemma.proxies.measures import MEASURES, Measure
from trilemma.proxies.worlds import Code, World

ROOT = Path(__file__).parents[3]
KEPT = json.loads((ROOT / "tasks/report/proxies.json").read_text())
PASSED = {row["measure"]: set(row["passed"]) for row in KEPT["measures"]}
BOTH = ("C4 and", "C4 or")


def known(name: str) -> Measure:
    return next(measure for measure in MEASURES if measure.name == name)


def holds(name: str, measure: Measure) -> bool:
    (condition,) = (each for each in CONDITIONS if each.name == name)
    return condition.holds(measure)


def test_monoscore_takes_conjunctive_merges_for_their_opposite() -> None:
    monoscore = known("monoscore")
    assert not holds("C4 and", monoscore)
    assert not holds("C5 and", monoscore)
    assert (conditions.correlation(monoscore, "conjunctive") or 0) < -0.5
    assert holds("C5 or", monoscore)


def test_angles_between_decoder_rows_see_conjunctive_merges_alone() -> None:
    c_dec = known("c_dec")
    assert holds("C5 and", c_dec)
    assert not holds("C4 or", c_dec)
    assert conditions.correlation(c_dec, "disjunctive") is None


def test_the_truth_follows_every_merge_and_what_is_optimal() -> None:
    truth = known("participation")
    for name in ("C4 and", "C4 or", "C5 and", "C5 or", "C6", "C7"):
        assert holds(name, truth), name
    assert not holds("C10", truth)


class Cheat(NamedTuple):
    """A measure that breaks one condition, and says which."""

    condition: str
    value: values.Value


def first_latent(code: Code, world: World) -> float:
    return float(code.acts[:, 0].mean())


def largest_activation(code: Code, world: World) -> float:
    return float(code.acts.max())


def per_latent(code: Code, world: World) -> float:
    return 1 / len(code.W_dec)


def constant(code: Code, world: World) -> float:
    return 1.0


CHEATS = [
    Cheat("C1", first_latent),
    Cheat("C2", largest_activation),
    Cheat("C3 dead", per_latent),
    Cheat("C3 copy", per_latent),
    *(Cheat(name, constant) for name in ("C4 and", "C4 or", "C5 and", "C5 or")),
    *(Cheat(name, constant) for name in ("C8 and", "C8 or")),
    Cheat("C6", lambda code, world: float((code.acts != 0).sum())),
    Cheat("C7", lambda code, world: float((code.acts @ code.W_dec - world.x).norm())),
    Cheat("C9", first_latent),
    Cheat("C10", values.participation),
]


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda cheat: cheat.condition)
def test_each_condition_catches_a_measure_that_breaks_it(cheat: Cheat) -> None:
    broken = Measure("cheat", cheat.value, 1, needs_concepts=True, chance=1.0)
    assert not holds(cheat.condition, broken)


def test_what_varies_in_nothing_has_no_correlation() -> None:
    assert conditions.spearman([1, 1, 1], [1, 2, 3]) is None
    assert conditions.spearman([1, float("nan"), 3], [1, 2, 3]) is None
    assert conditions.spearman([1, 5, 7], [1, 2, 3]) == 1


def test_the_kept_table_has_every_measure_and_condition() -> None:
    assert list(PASSED) == [measure.name for measure in MEASURES]
    assert len(PASSED) >= 10
    assert KEPT["conditions"] == {each.name: each.meaning for each in CONDITIONS}
    assert KEPT["version"] == conditions.METRIC_VERSION


def test_the_page_shows_the_kept_table() -> None:
    rows = [table.Row(**row) for row in KEPT["measures"]]
    assert proxies.BEGIN + proxies.markdown(rows) + proxies.END in (
        ROOT / "docs/proxies.md"
    ).read_text(encoding="utf-8")


def test_no_measure_without_the_truth_sees_both_kinds_of_merges() -> None:
    """As the page and the report say; one that did would be the headline."""
    blind = {measure.name for measure in MEASURES if not measure.needs_concepts}
    assert not [name for name in blind if PASSED[name].issuperset(BOTH)]


def test_three_measures_with_the_truth_see_both_kinds_of_merges() -> None:
    """As the page says."""
    seeing = [name for name in PASSED if PASSED[name].issuperset(BOTH)]
    assert seeing == ["participation", "f1_gap", "mig_latent"]


def test_the_strongest_fifth_takes_merges_for_their_opposite() -> None:
    rows = {row["measure"]: row for row in KEPT["measures"]}
    for name in ("polysemanticity_top", "purity_top"):
        assert rows[name]["conjunctive"] < 0, name
        assert rows[name]["disjunctive"] < 0, name


def test_what_holds_by_construction_is_not_counted() -> None:
    for row in KEPT["measures"]:
        expected = [] if row["needs_concepts"] else ["C10"]
        assert row["not_applicable"] == expected, row["measure"]
        assert not PASSED[row["measure"]] & {*expected}


@pytest.mark.slow
def test_the_kept_table_is_what_the_harness_finds() -> None:
    assert json.loads(proxies.data(list(table.rows()))) == KEPT
