"""What concepts that occur together make of SAEs is what theory says."""

import pytest

from benchmarks import co_occurrence
from benchmarks.co_occurrence import Point

SLOW = "sixteen in pairs"


def assert_near(points: list[Point]) -> None:
    """Assert 5 % where theory says more than 0.02, and 0.002 elsewhere."""
    for point in points:
        limit = 0.05 * point.theory if point.theory > 0.02 else 0.002
        assert point.measured == pytest.approx(point.theory, abs=limit), point


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == SLOW else ())
        for name in co_occurrence.ORACLES
    ],
)
def test_oracles_are_what_theory_says(name: str) -> None:
    points = list(co_occurrence.oracle_points(name))
    assert len({point.rule for point in points}) >= 11
    for point in points:
        assert point.measured == pytest.approx(point.theory, abs=1e-6), point


@pytest.mark.parametrize("name", ["two concepts", "sixteen, one pair at a time"])
def test_what_monosemanticity_costs_grows_with_co_occurrence_from_zero(
    name: str,
) -> None:
    points = list(co_occurrence.oracle_points(name))
    mono = [p.measured for p in points if p.rule.endswith("R1 mono l0")]
    free = [p.measured for p in points if p.rule.endswith("R1 free l0")]
    gaps = [one - other for one, other in zip(mono, free, strict=True)]
    assert gaps[0] == pytest.approx(0, abs=1e-12)
    assert gaps == sorted(set(gaps))
    lost = [p.measured for p in points if p.rule.endswith("R3 mono D, K=1")]
    assert lost == pytest.approx(gaps, abs=1e-12)


def test_trained_saes_of_two_concepts_come_to_what_theory_says() -> None:
    assert_near(list(co_occurrence.trained_two((0.6,), seeds=1)))


@pytest.mark.slow
def test_trained_saes_come_to_what_theory_says_at_every_co_occurrence() -> None:
    points = [*co_occurrence.trained_two(), *co_occurrence.trained_pairs()]
    assert_near(points)
    for rule in ("R6 gap to mono", "R1 gap to mono", "R2 saving"):
        gaps = [point.measured for point in points if point.rule == rule]
        assert gaps[0] == pytest.approx(0, abs=0.002)
        assert gaps == sorted(gaps)
