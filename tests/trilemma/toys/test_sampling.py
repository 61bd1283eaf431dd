"""Toy activations with known features."""

import pytest
import torch

from trilemma import toys
from trilemma.config.sources import Toy

SMALL = Toy(num_features=10, d_in=16, ctx=8, density=0.2, noise=0.1)


def test_features_are_orthogonal_where_there_is_room() -> None:
    directions = toys.features(SMALL)
    torch.testing.assert_close(directions @ directions.t(), torch.eye(10))


def test_crowded_features_are_unit_vectors_pushed_apart() -> None:
    config = Toy(num_features=48, d_in=16)
    directions = toys.features(config)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(48))
    cosines = (directions @ directions.t()).fill_diagonal_(0)
    # Welch's bound on the sum of squared cosines; random ones are a half above it.
    bound = 48 * (48 / 16 - 1)
    assert float(cosines.square().sum()) < 1.1 * bound


@pytest.mark.parametrize("cuts", [[40], [8, 8, 8, 8, 8], [3, 17, 20], [1, 39]])
def test_rows_do_not_depend_on_how_they_are_cut(cuts: list[int]) -> None:
    whole = toys.sample(SMALL, split="train", start=16, num=40)
    start, parts = 16, []
    for num in cuts:
        parts.append(toys.sample(SMALL, split="train", start=start, num=num))
        start += num
    for index in range(3):
        joined = torch.cat([part[index] for part in parts])
        assert torch.equal(joined, whole[index])


def test_splits_differ() -> None:
    train = toys.sample(SMALL, split="train", start=0, num=8)
    held_out = toys.sample(SMALL, split="eval", start=0, num=8)
    assert not torch.equal(train.x, held_out.x)


def test_seeds_differ() -> None:
    other = SMALL.model_copy(update={"seed": 1})
    assert not torch.equal(toys.features(SMALL), toys.features(other))


def test_rows_are_sums_of_the_active_features() -> None:
    config = SMALL.model_copy(update={"noise": 0.0})
    rows = toys.sample(config, split="train", start=0, num=64)
    code = rows.x @ toys.features(config).t()
    assert bool((code[rows.active] > 0.49).all())
    assert bool((code[~rows.active].abs() < 1e-5).all())


def test_strongest_is_one_more_than_the_feature_of_largest_magnitude() -> None:
    config = SMALL.model_copy(update={"noise": 0.0})
    rows = toys.sample(config, split="train", start=0, num=64)
    code = rows.x @ toys.features(config).t()
    is_silent = ~rows.active.any(dim=1)
    assert torch.equal(rows.strongest == 0, is_silent)
    expected = code.argmax(dim=1) + 1
    assert torch.equal(rows.strongest[~is_silent], expected[~is_silent])


def frequency(config: Toy) -> tuple[float, float]:
    """Return the density of features and P(second of a pair | first)."""
    active = toys.sample(config, split="train", start=0, num=40_000).active
    first, second = active[:, 0::2], active[:, 1::2]
    together = (first & second).double().sum() / first.double().sum()
    return float(active.double().mean()), float(together)


def test_features_have_their_density_and_are_independent() -> None:
    config = Toy(num_features=10, d_in=16, ctx=1000, density=0.2)
    density, together = frequency(config)
    assert abs(density - 0.2) < 0.005
    assert abs(together - 0.2) < 0.02


def test_pairs_co_occur_as_asked_at_the_same_density() -> None:
    config = Toy(num_features=10, d_in=16, ctx=1000, density=0.2, co_occurrence=0.7)
    density, together = frequency(config)
    assert abs(density - 0.2) < 0.005
    assert abs(together - 0.7) < 0.02


def test_an_impossible_co_occurrence_is_refused() -> None:
    config = Toy(density=0.8, co_occurrence=0.5)
    with pytest.raises(ValueError, match=r"toy\.co_occurrence: found 0\.5; at density"):
        toys.sample(config, split="train", start=0, num=1)


def test_every_value_of_strongest_has_a_text() -> None:
    assert toys.token_text(Toy(num_features=2)) == ["none", "f0", "f1"]
