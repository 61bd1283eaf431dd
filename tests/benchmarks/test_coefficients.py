import pytest

from benchmarks import coefficients
from benchmarks.coefficients import TOLERANCE
from benchmarks.trainers.serving import Contest

CONTEST = Contest(
    kind="relu",
    d_in=8,
    d_sae=16,
    k=2,
    l0=2,
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


def from_one(measure):
    return coefficients.search(measure, target=32, start=1.0)


@pytest.mark.parametrize("power", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_search_brings_l0_to_the_target_under_a_power_law(power, scale):
    found = from_one(lambda c: 32 * (scale / c) ** power)
    assert found.l0 == pytest.approx(32, rel=TOLERANCE)


def test_search_survives_a_cliff_from_dense_to_nothing():
    found = from_one(lambda c: 0.0 if c > 5 else 100 / c)
    assert found.l0 == pytest.approx(32, rel=TOLERANCE)


def test_search_that_starts_near_the_target_takes_few_tries():
    tried = []

    def measure(coefficient):
        tried.append(coefficient)
        return 32 * (40 / coefficient) ** 2.5

    assert coefficients.search(measure, target=32, start=30.0).l0 > 0
    assert len(tried) <= 3


def test_search_returns_the_nearest_where_l0_does_not_move():
    assert from_one(lambda c: 7.0).l0 == 7.0


def test_coefficients_that_were_measured_are_known(tmp_path, monkeypatch):
    monkeypatch.setattr(coefficients, "FILE", tmp_path / "coefficients.json")
    assert coefficients.known(CONTEST) == {}
    coefficients.save(CONTEST, "SAELens", coefficients.Tuned(2.5, 33.0))
    assert coefficients.known(CONTEST) == {"SAELens": 2.5}
    assert coefficients.load(CONTEST, "SAELens") == 2.5


def test_contest_without_a_coefficient_says_how_to_measure_it(tmp_path, monkeypatch):
    monkeypatch.setattr(coefficients, "FILE", tmp_path / "coefficients.json")
    with pytest.raises(ValueError, match=r"no coefficient of SAELens .* with --tune"):
        coefficients.load(CONTEST, "SAELens")
