"""Tests of intervals over documents."""

import numpy as np
import pytest
from scipy import stats

from trilemma.metrics import intervals
from trilemma.metrics.polysemanticity import effective_number


def ratio(num: np.ndarray, den: np.ndarray, **changes: float) -> intervals.Interval:
    settings = {"num_resamples": 500, "seed": 0} | changes
    return intervals.bootstrap_ratio(num, den, **settings)  # type: ignore[arg-type] # one mapping for int and float settings


def test_the_value_pools_documents_of_unequal_length() -> None:
    assert ratio(np.array([1.0, 30.0]), np.array([1.0, 10.0])).value == 31 / 11


def test_equal_documents_leave_no_uncertainty() -> None:
    found = ratio(np.full(10, 3.0), np.full(10, 2.0))
    assert (found.ci_low, found.ci_high) == pytest.approx((1.5, 1.5))


def test_counts_may_be_integers() -> None:
    assert ratio(np.array([1, 2]), np.array([2, 4])).value == 0.5


def test_a_ratio_over_nothing_is_undefined() -> None:
    assert ratio(np.zeros(3), np.zeros(3)) == intervals.UNDEFINED


def test_a_ratio_over_no_documents_is_undefined() -> None:
    assert ratio(np.zeros(0), np.zeros(0)) == intervals.UNDEFINED


def test_a_denominator_that_is_too_small_is_undefined() -> None:
    found = ratio(np.ones(3), np.ones(3), min_denominator=3.0)
    assert found == intervals.UNDEFINED


def test_one_document_has_a_value_but_no_interval() -> None:
    found = ratio(np.array([1.0]), np.array([2.0]))
    assert found == intervals.Interval(0.5, None, None)


def test_the_same_seed_gives_the_same_bits() -> None:
    num = np.random.default_rng(0).random(50)
    assert ratio(num, np.ones(50)) == ratio(num, np.ones(50))


def test_another_seed_gives_another_interval() -> None:
    num = np.random.default_rng(0).random(50)
    assert ratio(num, np.ones(50)) != ratio(num, np.ones(50), seed=1)


def test_ratios_measured_together_equal_those_measured_alone() -> None:
    generator = np.random.default_rng(0)
    num, den = generator.random((40, 2)), generator.random((40, 2)) + 1
    together = intervals.bootstrap_ratios(num, den, num_resamples=200, seed=3)
    alone = ratio(num[:, 1], den[:, 1], num_resamples=200, seed=3)
    assert together[1] == pytest.approx(alone)


def coverage(num_documents: int, *, num_simulations: int, seed: int) -> float:
    """Return how often the interval holds 2, for documents of unequal length and kind.

    A document has 20 to 199 tokens, a mean of its own (gamma, with a deviation of a
    quarter of the mean) and unit noise.
    """
    generator = np.random.default_rng(seed)
    covered = 0
    for simulation in range(num_simulations):
        den = generator.integers(20, 200, size=num_documents).astype(float)
        own = generator.gamma(16, 2 / 16, size=num_documents)
        num = den * own + generator.normal(0, np.sqrt(den))
        found = ratio(num, den, num_resamples=999, seed=simulation)
        assert found.ci_low is not None and found.ci_high is not None
        covered += found.ci_low <= 2 <= found.ci_high
    return covered / num_simulations


@pytest.mark.parametrize(
    "num_documents", [20, 60, pytest.param(200, marks=pytest.mark.slow)]
)
def test_the_interval_covers_the_true_ratio_from_20_documents_on(
    num_documents: int,
) -> None:
    found = coverage(num_documents, num_simulations=2000, seed=1)
    assert 0.94 <= found <= 0.96


def test_two_documents_have_the_interval_of_students_t() -> None:
    found = ratio(np.array([1.0, 3.0]), np.array([2.0, 2.0]))
    expected = stats.t.interval(0.95, 1, 1.0, stats.sem([0.5, 1.5]))
    assert found == pytest.approx((1.0, *expected))


def test_the_interval_of_a_share_stays_between_zero_and_one() -> None:
    hits = np.array([10.0] * 11 + [0.0])
    bounds = intervals.SHARE
    found = intervals.bootstrap_ratio(
        hits, np.full(12, 10.0), num_resamples=500, seed=0, bounds=bounds
    )
    assert found.ci_low is not None and 0 <= found.ci_low < 0.9
    assert found.ci_high == 1


def test_an_interval_is_cut_by_what_must_hold_and_not_by_the_sample() -> None:
    num, den = np.array([0.0, 0.1, 4.0]), np.full(3, 5.0)
    free = ratio(num, den)
    assert free.ci_low is not None and free.ci_high is not None
    assert free.ci_low < 0 and free.ci_high > 1
    cut = intervals.bootstrap_ratio(
        num, den, num_resamples=500, seed=0, bounds=intervals.NOT_NEGATIVE
    )
    assert cut == (free.value, 0.0, free.ci_high)


def test_resamples_do_not_depend_on_how_many_fit_in_memory() -> None:
    sums = np.random.default_rng(0).random((3000, 1))
    found = intervals.resampled_sums(sums, num_resamples=2000, seed=0)
    assert found.shape == (2000, 1)
    assert found.std() == pytest.approx(np.sqrt(3000 * sums.var()), rel=0.1)


def test_the_jackknife_of_a_mean_is_its_t_interval() -> None:
    x = np.random.default_rng(0).normal(size=20)
    left_out = (x.sum() - x) / 19
    found = intervals.jackknife(float(x.mean()), left_out, np.ones(20))
    expected = stats.t.interval(0.95, 19, x.mean(), stats.sem(x))
    assert (found.ci_low, found.ci_high) == pytest.approx(expected)


def test_the_jackknife_of_one_block_has_no_interval() -> None:
    found = intervals.jackknife(1.0, np.array([1.0]), np.ones(1))
    assert found == intervals.Interval(1.0, None, None)


def test_blocks_without_a_part_in_the_sample_change_no_interval() -> None:
    x = np.random.default_rng(0).normal(size=6)
    left_out = (x.sum() - x) / 5
    found = intervals.jackknife(float(x.mean()), left_out, np.ones(6))
    padded = intervals.jackknife(
        float(x.mean()),
        np.append(left_out, [x.mean(), np.nan]),
        np.r_[np.ones(6), 0, 0],
    )
    assert padded == pytest.approx(found)


def test_an_end_of_a_jackknife_s_interval_passes_no_bound() -> None:
    left_out = np.array([0.99, 0.9, 0.95])
    found = intervals.jackknife(0.95, left_out, np.ones(3), bounds=intervals.SHARE)
    assert found.ci_high == 1.0
    assert found.ci_low is not None and 0 < found.ci_low < 0.95


def test_a_statistic_that_falls_with_the_sample_alone_has_no_influences() -> None:
    sizes = np.array([10.0, 400.0, 30.0, 2000.0])
    whole, left_out = 3 + 5 / sizes.sum(), 3 + 5 / (sizes.sum() - sizes)
    found = intervals.influences(whole, left_out, sizes)
    assert found == pytest.approx(np.zeros(4), abs=1e-12)


@pytest.mark.parametrize("spread", [0.0, 1.5])
def test_the_jackknife_covers_an_effective_number_whatever_the_sizes_of_blocks(
    spread: float,
) -> None:
    """Rows are alike, so their grouping by documents may not matter."""
    generator = np.random.default_rng(0)
    share = generator.dirichlet(np.full(64, 0.5))
    truth, hits, num = np.exp(stats.entropy(share)), 0, 1000
    for _ in range(num):
        sizes = 1 + (2000 * generator.lognormal(0, spread, 20)).astype(int)
        counts = generator.multinomial(sizes, share).astype(float)
        total = counts.sum(0)
        found = intervals.jackknife(
            float(effective_number(total)), effective_number(total - counts), sizes
        )
        assert found.ci_low is not None and found.ci_high is not None
        hits += found.ci_low <= truth <= found.ci_high
    assert 0.93 <= hits / num <= 0.97
