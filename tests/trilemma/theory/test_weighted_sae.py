"""Tests of what a tied SAE recovers of superposed features."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trilemma.theory import weighted_sae
from trilemma.theory.weighted_sae import DIGON, TRIANGLE

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 6)


def features(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Return features in (0, 1), each 0 half the time."""
    return generator.random(shape) * (generator.random(shape) < 1 / 2)


@given(seeds, sizes, sizes)
def test_the_loss_differs_from_the_truth_by_the_interference(
    seed: int, n: int, n_p: int
) -> None:
    generator = np.random.default_rng(seed)
    W_p, x = generator.normal(size=(n_p, n)), features(generator, (50, n))
    gamma = generator.random(n_p) + 0.1
    for weights in (np.ones(n_p), gamma):
        found = weighted_sae.losses(W_p, x, weights)
        gap = weighted_sae.gap(W_p, x, weights)
        assert found.sae - found.ground_truth == pytest.approx(
            gap, rel=1e-10, abs=1e-10
        )


def test_the_strongest_feature_is_mistaken_for_another_where_features_shrink() -> None:
    W_p = np.array([[1.0, 0, 0], [0, 1, -1]])
    x = np.array([0.5, 1.0, 0.8])
    found = weighted_sae.recovered(W_p, x)
    assert found == pytest.approx([0.5, 0.2, 0], abs=1e-12)
    assert (x.argmax(), found.argmax()) == (1, 0)


@pytest.mark.parametrize(
    ("W_p", "x", "expected"),
    [
        (DIGON, [0.8, 0.8], [0, 0]),
        (TRIANGLE, [1, 1, 1], [0, 0, 0]),
        (TRIANGLE, [1, 0.6, 0.6], [0.4, 0, 0]),
    ],
)
def test_features_vanish_where_they_meet(
    W_p: np.ndarray, x: list[float], expected: list[float]
) -> None:
    found = weighted_sae.recovered(W_p, np.array(x, dtype=float))
    assert found == pytest.approx(expected, abs=1e-12)


@given(seeds, st.floats(0, 1))
def test_a_digon_is_reconstructed_perfectly_at_every_sparsity(
    seed: int, sparsity: float
) -> None:
    generator = np.random.default_rng(seed)
    x = generator.random((100, 2)) * (generator.random((100, 2)) >= sparsity)
    assert weighted_sae.losses(DIGON, x, np.ones(1)).sae == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize(("sparsity", "expected"), [(0.5, 0.0833), (0.9, 0.0033)])
def test_a_digon_loses_features_all_the_same(sparsity: float, expected: float) -> None:
    middle = (np.arange(1000) + 0.5) / 1000
    both = np.stack(np.meshgrid(middle, middle), axis=-1).reshape(-1, 2)
    alone = np.stack([middle, np.zeros(1000)], axis=1)
    assert weighted_sae.losses(DIGON, alone, np.ones(1)).ground_truth == 0
    lost = weighted_sae.losses(DIGON, both, np.ones(1)).ground_truth
    found = weighted_sae.digon_ground_truth_loss(sparsity)
    assert found == pytest.approx((1 - sparsity) ** 2 * lost, rel=1e-5)
    assert found == pytest.approx(expected, abs=5e-5)


@given(seeds)
def test_one_feature_at_a_time_is_recovered(seed: int) -> None:
    generator = np.random.default_rng(seed)
    for W_p in (DIGON, TRIANGLE):
        n = W_p.shape[1]
        x = np.eye(n)[generator.integers(0, n, 20)] * generator.random((20, 1))
        assert weighted_sae.recovered(W_p, x) == pytest.approx(x, abs=1e-12)


def test_a_triangle_is_reconstructed_better_without_its_features() -> None:
    x = features(np.random.default_rng(0), (20_000, 3))
    loss = weighted_sae.losses(TRIANGLE, x, np.ones(2)).sae
    assert loss == pytest.approx(0.0306, abs=1e-3)
    x_p, W_m = x @ TRIANGLE.T, np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    assert np.maximum(x_p @ W_m.T, 0) @ W_m == pytest.approx(x_p, abs=1e-12)


def test_smaller_weights_shrink_the_interference_of_a_shared_dimension() -> None:
    W_p = np.array([[1.0, 0, 0], [0, 1, -1]])
    plain = weighted_sae.interference(W_p, np.ones(2))
    weighted = weighted_sae.interference(W_p, np.array([1.0, 0.5]))
    assert plain[1, 2] == -1
    assert weighted[1, 2] == pytest.approx(-0.25)
    assert weighted[0, 0] == plain[0, 0] == 0
