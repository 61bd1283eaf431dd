"""Which features are active together: frequencies within four standard errors."""

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from trilemma import toys
from trilemma.config.toys import Copula, FeatureTree, Toy
from trilemma.toys import concepts

NUM = 60_000
TREE = {"branching": 2, "depth": 3, "child_probability": 0.4}


def draw(**settings: Any) -> tuple[Toy, Tensor]:
    config = Toy(d_in=4, ctx=1000, **settings)
    return config, toys.active(config, split="train", start=0, num=NUM)


def assert_frequent(events: Tensor, probability: float) -> None:
    """Assert that a share of rows is a probability, within binomial limits."""
    limit = 4 * math.sqrt(probability * (1 - probability) / NUM) + 1e-7
    assert float(events.double().mean()) == pytest.approx(probability, abs=limit)


def assert_marginals(config: Toy, active: Tensor) -> None:
    assert active.shape == (NUM, config.num_features)
    for feature, probability in enumerate(config.marginals):
        assert_frequent(active[:, feature], probability)


SETTINGS: dict[str, dict[str, Any]] = {
    "independent": {"num_features": 10, "density": 0.2},
    "zipf": {"num_features": 12, "density": 0.1, "zipf_exponent": 1.0},
    "prescribed": {"num_features": 3, "densities": (0.7, 0.05, 0.3)},
    "pairs": {"num_features": 7, "density": 0.2, "co_occurrence": 0.7},
    "frequent pairs": {"num_features": 4, "density": 0.7, "co_occurrence": 0.6},
    "unequal pairs": {
        "num_features": 4,
        "densities": (0.3, 0.2, 0.1, 0.4),
        "co_occurrence": 0.25,
    },
    "exclusive pairs": {"num_features": 4, "density": 0.3, "co_occurrence": 0.0},
    "blocks": {
        "num_features": 13,
        "density": 0.1,
        "co_occurrence": 0.6,
        "block_size": 4,
        "zipf_exponent": 0.5,
    },
    "blocks apart": {
        "num_features": 6,
        "densities": (0.3, 0.2, 0.1, 0.2, 0.2, 0.2),
        "co_occurrence": 0.1,
        "block_size": 3,
    },
    "exclusive blocks": {
        "num_features": 8,
        "density": 0.2,
        "co_occurrence": 0.0,
        "block_size": 4,
    },
    "trees": {"num_features": 14, "density": 0.3, "tree": TREE},
    "exclusive trees": {
        "num_features": 14,
        "density": 0.3,
        "zipf_exponent": 1.0,
        "tree": TREE | {"exclusive": True},
    },
    "copula": {
        "num_features": 6,
        "densities": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
        "copula": {"rank": 3, "strength": 0.8},
    },
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_feature_has_its_marginal(name: str) -> None:
    assert_marginals(*draw(**SETTINGS[name]))


@pytest.mark.parametrize("name", ["independent", "zipf", "prescribed"])
def test_features_are_independent_unless_tied(name: str) -> None:
    config, active = draw(**SETTINGS[name])
    for one in range(config.num_features):
        for other in range(one):
            both = active[:, one] & active[:, other]
            assert_frequent(both, config.marginals[one] * config.marginals[other])


@pytest.mark.parametrize("name", [name for name in SETTINGS if "pairs" in name])
def test_pairs_are_both_active_as_often_as_the_rarer_times_co_occurrence(
    name: str,
) -> None:
    config, active = draw(**SETTINGS[name])
    assert config.co_occurrence is not None
    for first in range(0, config.num_features // 2 * 2, 2):
        both = active[:, first] & active[:, first + 1]
        rarer = min(config.marginals[first : first + 2])
        assert_frequent(both, config.co_occurrence * rarer)


@pytest.mark.parametrize("name", [name for name in SETTINGS if "blocks" in name])
def test_any_two_of_a_block_are_active_as_often_as_asked(name: str) -> None:
    config, active = draw(**SETTINGS[name])
    assert config.co_occurrence is not None
    for one, other in concepts.related(config).tolist():
        start = one - one % config.block_size
        largest = max(config.marginals[start : start + config.block_size])
        product = config.marginals[one] * config.marginals[other]
        both = active[:, one] & active[:, other]
        assert_frequent(both, config.co_occurrence * product / largest)


def test_features_of_different_blocks_are_independent() -> None:
    config, active = draw(**SETTINGS["blocks"])
    for one, other in [(0, 4), (3, 8), (7, 12)]:
        both = active[:, one] & active[:, other]
        assert_frequent(both, config.marginals[one] * config.marginals[other])


@pytest.mark.parametrize("name", ["exclusive pairs", "exclusive blocks"])
def test_a_co_occurrence_of_zero_keeps_features_apart(name: str) -> None:
    config, active = draw(**SETTINGS[name])
    pairs = concepts.related(config)
    assert not bool((active[:, pairs[:, 0]] & active[:, pairs[:, 1]]).any())


@pytest.mark.parametrize("name", ["trees", "exclusive trees"])
def test_a_child_is_active_only_with_its_parent(name: str) -> None:
    config, active = draw(**SETTINGS[name])
    parent, child = concepts.related(config).t()
    assert not bool((active[:, child] & ~active[:, parent]).any())
    assert child[:6].tolist() == [1, 2, 3, 4, 5, 6]
    assert parent[:6].tolist() == [0, 0, 1, 1, 2, 2]


def test_exclusive_children_are_never_siblings() -> None:
    _, active = draw(**SETTINGS["exclusive trees"])
    for sibling in (1, 3, 5, 8, 10, 12):
        assert not bool((active[:, sibling] & active[:, sibling + 1]).any())


def test_children_of_a_parent_are_independent_unless_exclusive() -> None:
    config, active = draw(**SETTINGS["trees"])
    assert_frequent(active[:, 1] & active[:, 2], config.marginals[0] * 0.4**2)


def test_a_copula_ties_pairs_by_the_correlation_of_their_normals() -> None:
    config, active = draw(**SETTINGS["copula"])
    assert config.copula is not None
    rows = concepts.loadings(config.copula, config.seed, 6).double()
    at = stats.norm.ppf(config.marginals)
    for one in range(6):
        for other in range(one):
            rho = float(rows[one] @ rows[other])
            normal = stats.multivariate_normal(cov=[[1, rho], [rho, 1]])
            both = active[:, one] & active[:, other]
            assert_frequent(both, float(normal.cdf([at[one], at[other]])))


def test_a_strength_of_one_and_rank_one_leaves_only_nesting_or_opposition() -> None:
    _, active = draw(num_features=4, copula=Copula(rank=1, strength=1.0), density=0.3)
    rows = concepts.loadings(Copula(rank=1, strength=1.0), 0, 4)[:, 0]
    for one in range(4):
        for other in range(one):
            is_same = bool(rows[one] * rows[other] > 0)
            both = active[:, one] & active[:, other]
            assert torch.equal(both, active[:, one]) == is_same


def test_untied_features_are_related_to_none() -> None:
    assert concepts.related(Toy()).shape == (0, 2)
    assert concepts.related(Toy(copula=Copula())).shape == (0, 2)


def test_marginals_fall_as_zipf_says_and_keep_their_mean() -> None:
    marginals = Toy(num_features=8, density=0.1, zipf_exponent=0.7).marginals
    assert sum(marginals) / 8 == pytest.approx(0.1)
    assert marginals[3] / marginals[0] == pytest.approx(4**-0.7)


def test_a_tree_has_one_rank() -> None:
    tree = FeatureTree(branching=2)
    marginals = Toy(num_features=6, tree=tree, zipf_exponent=1.0).marginals
    assert marginals[3] / marginals[0] == pytest.approx(1 / 2)
    assert marginals[1] == marginals[2] == marginals[0] / 2
