"""Toy activations with known features."""

from typing import Any

import pytest
import torch

from trilemma import toys
from trilemma.config.toys import Toy

SMALL = Toy(num_features=10, d_in=16, ctx=8, density=0.2, noise=0.1)
FIRST: dict[str, Any] = {"split": "train", "start": 0, "num": 500}


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
    for index in range(len(whole)):
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


def test_active_features_can_be_had_without_the_rows() -> None:
    rows = toys.sample(SMALL, split="eval", start=5, num=30)
    found = toys.active(SMALL, split="eval", start=5, num=30)
    assert torch.equal(found, rows.active)


def test_the_bias_is_in_every_row_and_has_its_norm() -> None:
    config = SMALL.model_copy(update={"bias": 3.0, "density": 0.05})
    plain = toys.sample(config.model_copy(update={"bias": 0.0}), **FIRST).x
    torch.testing.assert_close(
        toys.sample(config, **FIRST).x - plain, toys.bias(config).expand(500, -1)
    )
    assert float(toys.bias(config).norm()) == pytest.approx(3)


@pytest.mark.parametrize(
    ("magnitude", "least", "largest", "deviation"),
    [
        ("constant", 1.0, 1.0, 0.0),
        ("uniform", 0.5, 1.5, 1 / 12**0.5),
        ("half_normal", 0.0, 8.0, (torch.pi / 2 - 1) ** 0.5),
    ],
)
def test_magnitudes_have_mean_one_and_their_own_spread(
    magnitude: str, least: float, largest: float, deviation: float
) -> None:
    config = Toy(num_features=8, d_in=8, density=0.5, magnitude=magnitude, ctx=500)
    rows = toys.sample(config, split="train", start=0, num=20_000)
    found = (rows.x @ toys.features(config).t())[rows.active].double()
    limit = 4 * deviation / len(found) ** 0.5 + 1e-6
    assert float(found.mean()) == pytest.approx(1, abs=limit)
    assert float(found.std()) == pytest.approx(deviation, abs=2 * limit)
    assert least - 1e-5 <= float(found.min()) <= float(found.max()) <= largest + 1e-5


def test_every_value_of_strongest_has_a_text() -> None:
    assert toys.token_text(Toy(num_features=2)) == ["none", "f0", "f1"]
