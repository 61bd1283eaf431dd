"""Tests of polysemanticity: axioms, and values known in closed form."""

import math

import numpy as np
import pytest
import torch

from trilemma.metrics import polysemanticity


def share_out(
    mass: np.ndarray, null: np.ndarray, *, norms: np.ndarray | None = None
) -> polysemanticity.Sharing:
    """Return the sharing of latents whose mass is equal in four blocks."""
    return polysemanticity.sharing(
        mass=np.stack([mass / 4] * 4),
        null_mass=null[None],
        num_fired=np.stack([np.ceil(mass.sum(1)).astype(int)] * 4),
        norms=np.ones(len(mass)) if norms is None else norms,
    )


@pytest.mark.parametrize(
    ("mass", "expected"),
    [
        ([5.0, 0, 0], 1.0),
        ([2.0, 2, 0], 2.0),
        ([3.0, 1, 0], 1.7548),
        ([1.0, 1, 1], 3.0),
    ],
)
def test_the_effective_number_of_labels(mass: list[float], expected: float) -> None:
    found = polysemanticity.effective_number(np.array(mass))
    assert float(found) == pytest.approx(expected, abs=1e-4)


def test_a_silent_latent_has_no_effective_number() -> None:
    assert np.isnan(polysemanticity.effective_number(np.zeros((1, 3)))).all()


def test_scale_does_not_matter() -> None:
    mass = np.random.default_rng(0).random((4, 6))
    assert np.allclose(
        polysemanticity.effective_number(mass),
        polysemanticity.effective_number(1000 * mass),
    )


def test_merging_two_disjoint_latents_raises_the_mean_ratio() -> None:
    apart = np.array([[8.0, 0, 0, 0], [0, 8, 0, 0]])
    merged = np.array([[8.0, 8, 0, 0]])
    before = share_out(apart, np.full((2, 4), 2.0)).mean_ratio.value
    after = share_out(merged, np.full((1, 4), 4.0)).mean_ratio.value
    assert [before, after] == pytest.approx([1 / 4, 2 / 4])


@pytest.mark.parametrize(("num_firings", "expected"), [(1000, 0.03), (20, 0.12)])
def test_few_firings_bring_the_ratio_nearer_to_one(
    num_firings: int, expected: float
) -> None:
    """The headline depends on density, as docs/metrics.md says with these figures."""
    num_labels, generator = 64, np.random.default_rng(0)
    own = np.zeros(num_labels)
    own[:2] = num_firings / 2
    shares = np.full(num_labels, 1 / num_labels)
    dealt = generator.multinomial(num_firings, shares, size=400)
    null = polysemanticity.effective_number(dealt.astype(float)).mean()
    ratio = polysemanticity.effective_number(own[None])[0] / null
    assert ratio == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(
    ("mass", "expected"), [([2.0, 2, 0], 0.5), ([3.0, 1, 0], 0.75), ([0, 5.0, 0], 1)]
)
def test_the_purity_of_a_merge(mass: list[float], expected: float) -> None:
    assert float(polysemanticity.purity(np.array(mass))) == expected


def test_a_silent_latent_has_no_purity() -> None:
    assert np.isnan(polysemanticity.purity(np.zeros((1, 3)))).all()


def test_merging_two_disjoint_latents_doubles_the_mean_and_halves_the_purity() -> None:
    before = share_out(np.array([[8.0, 0, 0], [0, 8, 0]]), np.ones((2, 3)))
    after = share_out(np.array([[8.0, 8, 0]]), np.ones((1, 3)))
    for found, n_eff, purity in ((before, 1, 1), (after, 2, 0.5)):
        assert found.mean_n_eff.value == pytest.approx(n_eff)
        assert found.geometric_n_eff.value == pytest.approx(n_eff)
        assert found.mean_purity.value == pytest.approx(purity)


def test_splitting_never_raises_the_geometric_mean_nor_lowers_the_purity() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        # From nearly equal shares to one label that has nearly all.
        parts = generator.random((3, 6)) ** generator.integers(1, 40)
        parts *= 10 ** generator.uniform(-2, 2, size=(3, 1))
        whole = share_out(parts.sum(0, keepdims=True), np.ones((1, 6)))
        split = share_out(parts, np.ones((3, 6)))
        assert split.geometric_n_eff.value <= whole.geometric_n_eff.value + 1e-9
        assert split.mean_purity.value >= whole.mean_purity.value - 1e-9


def test_splitting_off_a_pure_half_can_raise_the_firing_weighted_mean() -> None:
    """The arithmetic mean, and so the headline, lacks what the geometric one has."""
    pure, mixed = np.eye(1, 101) * 100, np.ones((1, 101)) * 100 / 101
    null = np.ones((2, 101))
    whole = share_out(pure + mixed, null[:1]).mean_n_eff.value
    split = share_out(np.concatenate([pure, mixed]), null).mean_n_eff.value
    assert whole is not None and split is not None
    assert whole < 20
    assert split > 50


def test_a_scale_that_the_decoder_undoes_changes_no_mean() -> None:
    generator = np.random.default_rng(1)
    mass, null = generator.random((4, 6)), generator.random((4, 6))
    scale = np.array([0.01, 1, 7, 300.0])
    fired = np.full((4, 4), 5)
    found, scaled = (
        polysemanticity.sharing(
            mass=np.stack([mass * by[:, None] / 4] * 4),
            null_mass=null[None] * by[:, None],
            num_fired=fired,
            norms=1 / by,
        )
        for by in (np.ones(4), scale)
    )
    for field in ("mean_n_eff", "mean_ratio", "geometric_n_eff", "mean_purity"):
        assert getattr(scaled, field) == pytest.approx(getattr(found, field)), field


def test_the_order_of_latents_does_not_matter() -> None:
    mass = np.random.default_rng(0).integers(0, 9, size=(6, 5)).astype(float)
    null = np.ones((6, 5))
    found = share_out(mass, null).mean_ratio
    assert share_out(mass[::-1], null).mean_ratio == pytest.approx(found)


def test_a_code_that_never_fires_has_no_polysemanticity() -> None:
    found = share_out(np.zeros((3, 2)), np.zeros((3, 2)))
    assert found.mean_ratio == (None, None, None)


def test_a_latent_that_fires_in_one_block_alone_leaves_finite_intervals() -> None:
    mass = np.zeros((4, 2, 3))
    mass[0, 0] = [0.1, 0.2, 0.7]
    mass[:, 1] = [1.0, 2.0, 3.0]
    fired = np.array([[3, 5], [0, 5], [0, 5], [0, 5]])
    found = polysemanticity.sharing(
        mass=mass, null_mass=mass.sum(0)[None], num_fired=fired, norms=np.ones(2)
    )
    assert found.mean_n_eff.ci_low is not None
    assert math.isfinite(found.mean_n_eff.ci_low)


@pytest.mark.parametrize(
    ("p1", "p2", "p12", "expected"), [(0.3, 0.2, 0.05, 1.333), (0.3, 0.1, 0.01, 1.005)]
)
def test_participation_of_the_optimal_merged_direction(
    p1: float, p2: float, p12: float, expected: float
) -> None:
    angle = math.atan2(2 * p12, p1 - p2) / 2
    direction = torch.tensor([[math.cos(angle), math.sin(angle)]])
    found = polysemanticity.matches(direction, torch.eye(2)).participation
    assert found[0] == pytest.approx(expected, abs=1e-3)


def test_participation_ignores_sign_and_scale() -> None:
    directions = torch.tensor([[1.0, 1.0, 0], [-5.0, 5.0, 0]])
    found = polysemanticity.matches(directions, torch.eye(3)).participation
    assert found == pytest.approx([2, 2])


def test_features_that_overlap_are_each_monosemantic() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(64, 32, generator=generator))
    found = polysemanticity.matches(features, features)
    assert found.participation == pytest.approx(np.ones(64))
    assert found.best_feature.tolist() == list(range(64))


def test_a_direction_of_zero_length_matches_nothing() -> None:
    found = polysemanticity.matches(torch.zeros(1, 3), torch.eye(3))
    assert found.cosine.max() == 0
    assert np.isnan(found.participation).all()
    assert np.isnan(found.best_feature).all()
