"""Tests of dictionaries with fewer latents than concepts."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trilemma.theory.distributions import distributions
from trilemma.theory.small_dictionaries import small_dictionary
from trilemma.theory.supports import Supports, independent, pair


@pytest.mark.parametrize(
    ("p1", "p2", "p12", "distortion", "angle", "participation"),
    [
        (0.3, 0.2, 0.05, 0.17929, 0.3927, 1.333),
        (0.3, 0.1, 0.01, 0.09950, 0.0498, 1.005),
    ],
)
def test_one_latent_for_two_concepts(
    p1: float,
    p2: float,
    p12: float,
    distortion: float,
    angle: float,
    participation: float,
) -> None:
    found = small_dictionary(pair(p1, p2, p12), 1, bias=False)
    x, y = np.abs(found.directions[0])
    assert found.monosemantic == pytest.approx(p2)
    assert found.polysemantic == pytest.approx(distortion, abs=5e-6)
    assert math.atan2(y, x) == pytest.approx(angle, abs=5e-5)
    assert found.participation[0] == pytest.approx(participation, abs=5e-4)


@given(st.floats(0.05, 0.5), st.floats(0.05, 0.5), st.floats(0, 1))
def test_one_latent_for_two_concepts_has_a_closed_form(
    p1: float, p2: float, together: float
) -> None:
    p12 = together * min(p1, p2)
    expected = (p1 + p2) / 2 - math.hypot((p1 - p2) / 2, p12)
    found = small_dictionary(pair(p1, p2, p12), 1, bias=False)
    assert found.polysemantic == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("p12", [1e-3, 0.05, 0.2])
def test_equally_frequent_concepts_are_merged_evenly(p12: float) -> None:
    found = small_dictionary(pair(0.2, 0.2, p12), 1, bias=False)
    assert found.polysemantic == pytest.approx(0.2 - p12)
    assert found.participation[0] == pytest.approx(2)


def best_angle(energy: np.ndarray) -> tuple[float, float]:
    """Return the least loss of one direction in the plane, and its angle, by trying."""
    angles = np.linspace(0, math.pi, 20_001)
    unit = np.stack([np.cos(angles), np.sin(angles)])
    losses = np.trace(energy) - np.einsum("in,ij,jn->n", unit, energy, unit)
    return float(losses.min()), float(angles[losses.argmin()])


@given(st.integers(1, 400), st.integers(1, 400), st.floats(0, 1), st.booleans())
def test_no_other_direction_loses_less(
    first: int, second: int, together: float, bias: bool
) -> None:
    p1, p2 = first / 1000, second / 1000
    supports = pair(p1, p2, together * min(p1, p2))
    energy = supports.pairwise
    if bias:
        energy = energy - np.outer(supports.marginals, supports.marginals)
    least, _ = best_angle(energy)
    found = small_dictionary(supports, 1, bias=bias)
    assert found.polysemantic == pytest.approx(least, abs=1e-7)


@given(distributions(), st.integers(0, 5), st.booleans(), st.integers(0, 2**32 - 1))
def test_no_other_dictionary_loses_less(
    supports: Supports, d_sae: int, bias: bool, seed: int
) -> None:
    m = supports.num_concepts
    d_sae = min(d_sae, m)
    found = small_dictionary(supports, d_sae, bias=bias)
    mean = supports.marginals if bias else np.zeros(m)
    rows = supports.present - mean
    generator = np.random.default_rng(seed)
    rotations = [np.linalg.qr(generator.normal(size=(m, m))).Q for _ in range(10)]
    for basis in [*rotations, found.directions.T]:
        kept = basis[:, :d_sae]
        error = rows - rows @ kept @ kept.T
        loss = supports.mean(np.square(error).sum(1))
        assert found.polysemantic <= loss + 1e-9
    assert found.polysemantic == pytest.approx(loss, abs=1e-9)


@given(distributions(), st.integers(0, 5), st.booleans())
def test_no_other_choice_of_concepts_loses_less(
    supports: Supports, d_sae: int, bias: bool
) -> None:
    p = supports.marginals
    energy = p * (1 - p) if bias else p
    dropped = itertools.combinations(energy, max(len(p) - d_sae, 0))
    found = small_dictionary(supports, d_sae, bias=bias)
    assert found.monosemantic == pytest.approx(min(map(sum, dropped)), abs=1e-12)
    assert found.polysemantic <= found.monosemantic + 1e-9


@given(st.lists(st.integers(1, 99), min_size=2, max_size=5), st.integers(0, 5))
def test_with_a_bias_independent_concepts_are_not_merged(
    percent: list[int], d_sae: int
) -> None:
    alone = [
        Supports.of({(): 1 - p / 100, (0,): p / 100}, num_concepts=1) for p in percent
    ]
    found = small_dictionary(independent(alone), d_sae, bias=True)
    assert found.polysemantic == pytest.approx(found.monosemantic, abs=1e-12)


def test_without_a_bias_independent_concepts_are_merged() -> None:
    found = small_dictionary(pair(0.3, 0.2, 0.06), 1, bias=False)
    assert found.polysemantic < found.monosemantic - 0.01


@given(distributions(), st.integers(1, 5))
def test_concepts_that_never_meet_leave_nothing_to_win(
    supports: Supports, d_sae: int
) -> None:
    single = supports.sizes <= 1
    mass = supports.probability[single].sum()
    if mass > 0:
        apart = Supports(supports.present[single], supports.probability[single] / mass)
        found = small_dictionary(apart, d_sae, bias=False)
        assert found.polysemantic == pytest.approx(found.monosemantic, abs=1e-12)
