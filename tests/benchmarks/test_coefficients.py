import pytest

from benchmarks import coefficients
from benchmarks.coefficients import TOLERANCE
from benchmarks.trainers.serving import Contest


@pytest.mark.parametrize("power", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_search_brings_l0_to_the_target_under_a_power_law(power, scale):
    found = coefficients.search(lambda c: 32 * (scale / c) ** power, target=32)
    assert found.l0 == pytest.approx(32, rel=TOLERANCE)


def test_search_survives_a_cliff_from_dense_to_nothing():
    found = coefficients.search(lambda c: 0.0 if c > 5 else 100 / c, target=32)
    assert found.l0 == pytest.approx(32, rel=TOLERANCE)


def test_search_returns_the_nearest_where_l0_does_not_move():
    assert coefficients.search(lambda c: 7.0, target=32).l0 == 7.0


def test_contest_without_a_coefficient_says_how_to_measure_it(tmp_path, monkeypatch):
    monkeypatch.setattr(coefficients, "FILE", tmp_path / "coefficients.json")
    contest = Contest(
        kind="relu",
        d_in=8,
        d_sae=16,
        k=2,
        batch=4,
        coefficient=None,
        lr=1e-3,
        steps=3,
        warmup_steps=1,
        threads=1,
        device="cpu",
        rows="",
        start="",
    )
    with pytest.raises(ValueError, match=r"no coefficient of SAELens .* with --tune"):
        coefficients.load(contest, "SAELens")
