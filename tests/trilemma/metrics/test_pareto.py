"""Tests of fronts: dominance with known probability, volumes known in closed form."""

import numpy as np
import pytest

from trilemma.metrics import matched_rate, pareto, parts
from trilemma.metrics.parts import Estimate


def estimates(values: np.ndarray, influence: np.ndarray) -> list[list[list[Estimate]]]:
    """Return SAEs of one seed each."""
    return [
        [[Estimate(float(v), i, np.ones(len(i))) for v, i in zip(*row, strict=True)]]
        for row in zip(values, influence, strict=True)
    ]


def test_an_sae_that_is_better_on_all_axes_dominates_for_certain() -> None:
    values = np.array([[1.0, 1, 1], [2, 2, 2], [1, 2, 3]])
    draws = pareto.resample(
        estimates(values, np.zeros((3, 3, 20))), num_resamples=10, seed=0
    )
    found = pareto.dominance(draws)
    assert found.probability.tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert found.is_on_front.tolist() == [1, 0, 0]


def test_equal_saes_do_not_dominate_each_other() -> None:
    draws = np.ones((5, 2, 3))
    assert pareto.dominance(draws).probability.tolist() == [[0, 0], [0, 0]]


def test_independent_axes_without_a_difference_dominate_one_time_in_eight() -> None:
    influence = np.random.default_rng(0).normal(size=(2, 3, 400))
    influence -= influence.mean(2, keepdims=True)
    draws = pareto.resample(
        estimates(np.zeros((2, 3)), influence), num_resamples=4000, seed=0
    )
    found = pareto.dominance(draws).probability[0, 1]
    assert found == pytest.approx(1 / 8, abs=0.02)


def test_resamples_vary_as_the_standard_error_says() -> None:
    influence = np.random.default_rng(0).normal(size=(1, 1, 20))
    influence -= influence.mean()
    draws = pareto.resample(
        estimates(np.zeros((1, 1)), influence), num_resamples=20_000, seed=1
    )
    assert draws.std() == pytest.approx(
        np.sqrt((influence**2).sum() * 20 / 19), rel=0.02
    )


def test_a_ratio_is_resampled_as_one() -> None:
    # One long document differs; without it the others' ratio stands, and no less.
    num, den = np.array([90.0] + [1.0] * 19), np.array([100.0] + [2.0] * 19)
    found = parts.estimate(
        parts.of_ratio("fvu", num, den), "fvu", value=float(num.sum() / den.sum())
    )
    assert found is not None
    draws = pareto.resample([[[found]]], num_resamples=2000, seed=0)
    scale = (20 / 19) ** 0.5
    assert draws.min() == pytest.approx(found.value + scale * (0.5 - found.value))


def test_seeds_vary_as_their_standard_error_says() -> None:
    seeds = [[Estimate(value, np.zeros(20), np.ones(20))] for value in (1.0, 2.0, 4.0)]
    draws = pareto.resample([seeds], num_resamples=20_000, seed=0)
    assert draws.mean() == pytest.approx(7 / 3, abs=0.02)
    assert draws.std() == pytest.approx(np.std([1, 2, 4], ddof=1) / 3**0.5, rel=0.02)


def test_saes_measured_on_the_same_documents_move_together() -> None:
    influence = np.random.default_rng(0).normal(size=(1, 3, 20)).repeat(2, axis=0)
    values = np.array([[0.0, 0, 0], [0.01, 0.01, 0.01]])
    draws = pareto.resample(estimates(values, influence), num_resamples=100, seed=0)
    assert pareto.dominance(draws).probability[0, 1] == 1


def test_one_block_of_documents_moves_nothing() -> None:
    values = np.array([[1.0, 2.0, 3.0]])
    draws = pareto.resample(
        estimates(values, np.zeros((1, 3, 1))), num_resamples=4, seed=0
    )
    assert (draws == values).all()


def test_the_volume_of_one_point_is_its_box() -> None:
    found = pareto.hypervolume(
        np.array([[[2.0, 0.5, 0.25]]]), reference=np.array([4.0, 1, 1])
    )
    assert found == pytest.approx(0.5 * 0.5 * 0.75)


def test_the_volume_of_two_points_is_the_union_of_their_boxes() -> None:
    points = np.array([[[0.2, 0.6, 0.5], [0.6, 0.1, 0.3]]])
    found = pareto.hypervolume(points, reference=np.ones(3))
    union = 0.8 * 0.4 * 0.5 + 0.4 * 0.9 * 0.7 - 0.4 * 0.4 * 0.5
    assert found == pytest.approx(union)


def test_a_point_beyond_the_reference_adds_nothing() -> None:
    points = np.array([[[0.5, 0.5, 0.5], [0.1, 0.1, 1.2]]])
    assert pareto.hypervolume(points, reference=np.ones(3)) == pytest.approx(0.125)


def test_an_axis_on_which_nothing_costs_anything_narrows_no_box() -> None:
    points = np.array([[[0.0, 0.5, 0.5], [0.0, 0.2, 0.9]], [[0.0, 1, 1], [0.1, 0, 0]]])
    found = pareto.hypervolume(points, reference=np.array([0.0, 1, 1]))
    assert found == pytest.approx([0.5 * 0.5 + 0.3 * 0.1, 0])


def test_volumes_agree_with_counting_points_of_the_box() -> None:
    generator = np.random.default_rng(0)
    points = generator.random((1, 7, 3))
    box = generator.random((200_000, 3))
    inside = (points[0][None] <= box[:, None]).all(2).any(1).mean()
    found = pareto.hypervolume(points, reference=np.ones(3))
    assert found == pytest.approx(inside, abs=0.005)


def test_the_front_is_what_nothing_dominates() -> None:
    values = np.array([[1.0, 3, 1], [3, 1, 1], [3, 3, 1], [2, 2, 0]])
    assert pareto.front(values).tolist() == [True, True, False, True]


def test_families_are_compared_in_the_middle_of_the_rates_they_share() -> None:
    rate = matched_rate.common_rate(np.array([10.0, 40]), np.array([20.0, 90]))
    assert rate == pytest.approx(np.sqrt(20 * 40))


def test_families_without_a_rate_in_common_are_not_compared() -> None:
    assert matched_rate.common_rate(np.array([1.0, 2]), np.array([3.0, 4])) is None
    assert matched_rate.common_rate(np.array([1.0]), np.array([0.5, 4])) is None
    assert matched_rate.common_rate(np.array([0.0, 2]), np.array([1.0, 2])) is None


def test_between_members_values_are_straight_over_octaves_of_rate() -> None:
    members = np.array([[8.0, 0.2, 5.0], [2.0, 0.4, 1.0]])
    assert matched_rate.at_rate(members, 4.0) == pytest.approx([0.3, 3.0])


def test_members_at_one_rate_count_by_their_mean() -> None:
    members = np.array([[4.0, 0.2], [4.0, 0.4], [16.0, 0.1]])
    for order in ([0, 1, 2], [1, 2, 0]):
        assert matched_rate.at_rate(members[order], 4.0) == pytest.approx([0.3])
        assert matched_rate.at_rate(members[order], 8.0) == pytest.approx([0.2])


def test_families_that_move_together_differ_for_certain() -> None:
    first = np.array([[2.0, 0.4], [8.0, 0.2]])
    second = first + np.array([0, 0.01])
    moves = np.random.default_rng(0).normal(0, 0.05, size=(200, 1, 1)) * [0, 1]
    found = matched_rate.compare(
        first + moves,
        second + moves,
        values=(first, second),
        rate_bits=4.0,
        num_blocks=20,
    )
    assert found.first == pytest.approx([0.3])
    assert found.second == pytest.approx([0.31])
    (difference,) = found.differences
    assert difference[:3] == pytest.approx((-0.01, -0.01, -0.01))
    assert difference.is_distinguishable
