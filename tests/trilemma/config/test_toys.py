"""Toys that cannot be drawn are refused in one line, and others told in words."""

import pytest

from trilemma import config, toys
from trilemma.config.toys import Toy

TOY = "configs/toy.yaml"


def line(*words: str) -> str:
    with pytest.raises(config.ProfileError) as caught:
        config.load(TOY, ("toy.co_occurrence=null", *words))
    (found,) = str(caught.value).splitlines()
    return found


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["toy.co_occurrence=0.5", "toy.density=0.8"],
            "toy.co_occurrence: found 0.5; at marginals 0.8 and 0.8 it is at least "
            "0.75",
        ),
        (
            ["toy.co_occurrence=0.1", "toy.density=0.4", "toy.block_size=4"],
            "toy.co_occurrence: found 0.1; in a block whose marginals sum to 1.6 it is "
            "at least the largest of them, 0.4",
        ),
        (
            ["toy.co_occurrence=0.1", "toy.block_size=65"],
            "toy.block_size: found 65; must not exceed num_features, which is 64",
        ),
        (
            ["toy.block_size=4"],
            "toy.block_size: has no effect without co_occurrence; remove it",
        ),
        (
            ["toy.co_occurrence=0.1", "toy.copula.rank=3"],
            "toy.copula: has no effect beside co_occurrence; remove one",
        ),
        (
            ["toy.tree.branching=2"],
            "toy.num_features: found 64; it must be a multiple of the features in a "
            "tree, 3",
        ),
        (
            ["toy.tree={branching: 3, exclusive: true}"],
            "toy.tree.child_probability: found 0.5; of 3 exclusive children each has "
            "at most 0.333",
        ),
        (
            ["toy.tree={branching: 3, depth: 1}"],
            "toy.tree.depth: found 1; input should be greater than or equal to 2",
        ),
        (
            ["toy.zipf_exponent=2"],
            "toy.zipf_exponent: found 2; at density 0.04 the most frequent feature "
            "would have 1.57; lower one of them",
        ),
        (
            ["toy={num_features: 2, densities: [0.1]}"],
            "toy.densities: found 1; give one for each of num_features, which is 2",
        ),
        (
            ["toy={num_features: 1, densities: [0.1], zipf_exponent: 1.0}"],
            "toy.zipf_exponent: has no effect beside densities; remove it",
        ),
        (
            ["toy={num_features: 3, densities: [.3, .2, .1], tree: {branching: 2}}"],
            "toy.densities: has no effect beside tree; remove it",
        ),
        (
            ["toy.copula.strength=1.5"],
            "toy.copula.strength: found 1.5; input should be less than or equal to 1",
        ),
    ],
)
def test_a_toy_that_cannot_be_drawn_is_one_line(
    words: list[str], expected: str
) -> None:
    assert line(*words) == expected


@pytest.mark.parametrize("together", [0.75, 1.0])
def test_frequent_pairs_may_co_occur_as_often_as_they_must(together: float) -> None:
    toy = Toy(num_features=2, d_in=2, density=0.8, co_occurrence=together)
    active = toys.sample(toy, split="train", start=0, num=1 << 14).active
    assert float(active.all(1).double().mean()) == pytest.approx(
        0.8 * together, abs=0.02
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "mean density 0.05, uniform magnitudes"),
        (
            {"co_occurrence": 0.5, "magnitude": "constant"},
            "mean density 0.05, co-occurrence 0.5 in blocks of 2, constant magnitudes",
        ),
        (
            {"tree": {"branching": 1}},
            "mean density 0.0375, in trees of 2, uniform magnitudes",
        ),
        (
            {"copula": {"rank": 4}},
            "mean density 0.05, correlated through 4 normals, uniform magnitudes",
        ),
    ],
)
def test_a_summary_says_what_a_toy_is_made_of(
    settings: dict[str, object], expected: str
) -> None:
    assert Toy(**settings).summary == f"64 features in 32 dimensions, {expected}"  # type: ignore[arg-type]
