"""Tests of paired differences: documents, seeds, and how often intervals hold."""

import numpy as np
import pytest
from scipy import stats

from trilemma.metrics import comparison, intervals, parts
from trilemma.metrics.parts import Estimate


def of_ratio(num: np.ndarray, den: np.ndarray) -> Estimate:
    found = parts.estimate(
        parts.of_ratio("fvu", num, den), "fvu", value=float(num.sum() / den.sum())
    )
    assert found is not None
    return found


def test_influences_of_equal_documents_are_the_mean_s_errors() -> None:
    num = np.arange(20.0)
    found = of_ratio(num, np.ones(20))
    assert found.value == 9.5
    assert found.influence == pytest.approx((num - 9.5) / 20)


def test_documents_are_dealt_among_twenty_blocks() -> None:
    num = np.zeros(45)
    num[[3, 23, 43]] = 1
    found = of_ratio(num, np.ones(45))
    assert len(found.influence) == 20
    assert found.influence.argmax() == 3
    assert found.influence.sum() == pytest.approx(0)


def test_leaving_blocks_out_gives_a_ratio_s_influences() -> None:
    generator = np.random.default_rng(0)
    num, den = generator.random(20) + 1, generator.random(20) + 5
    left_out = (num.sum() - num) / (den.sum() - den)
    found = parts.estimate(
        parts.of_left_out("p", left_out, den), "p", value=float(num.sum() / den.sum())
    )
    assert found is not None
    assert found.influence == pytest.approx(of_ratio(num, den).influence)


def test_a_metric_that_was_not_measured_has_no_estimate() -> None:
    one = np.ones(3)
    assert parts.estimate({}, "fvu", value=0.5) is None
    assert parts.estimate(parts.of_ratio("fvu", one, one), "fvu", value=None) is None
    lone = parts.of_left_out("p", np.array([1.0, np.nan]), np.ones(2))
    assert parts.estimate(lone, "p", value=1.0) is None


def test_what_documents_do_to_both_cancels() -> None:
    document = np.random.default_rng(0).normal(size=40)
    first, second = (
        of_ratio(document + 1.1, np.ones(40)),
        of_ratio(document + 1, np.ones(40)),
    )
    found = comparison.difference([first], [second])
    assert found.value == pytest.approx(0.1)
    assert found.standard_error == pytest.approx(0, abs=1e-12)
    assert found.ci_low == pytest.approx(0.1)


def test_the_difference_of_means_has_the_paired_t_interval() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 20))
    one = np.ones(20)
    found = comparison.difference([of_ratio(x, one)], [of_ratio(y, one)])
    low, high = stats.ttest_rel(x, y).confidence_interval(0.95)
    assert (found.ci_low, found.ci_high) == pytest.approx((low, high))


def test_less_than_two_standard_errors_is_not_distinguishable() -> None:
    def at(value: float) -> comparison.Difference:
        return comparison.Difference(value, value - 0.3, value + 0.3, 0.2)

    assert not at(0.39).is_distinguishable
    assert at(-0.41).is_distinguishable


def test_two_seeds_tell_less_than_two_standard_errors_would() -> None:
    still = np.zeros(20)
    first = [Estimate(value, still, np.ones(len(still))) for value in (0.9, 1.1)]
    second = [Estimate(value, still, np.ones(len(still))) for value in (1.3, 1.5)]
    found = comparison.difference(first, second)
    assert found.standard_error is not None
    assert abs(found.value) > 2 * found.standard_error
    assert not found.is_distinguishable


def test_seeds_widen_the_difference() -> None:
    still = np.zeros(20)
    first = [Estimate(value, still, np.ones(len(still))) for value in (1.0, 2.0, 3.0)]
    second = [Estimate(value, still, np.ones(len(still))) for value in (2.0, 3.0, 4.0)]
    found = comparison.difference(first, second)
    welch = stats.ttest_ind((1, 2, 3), (2, 3, 4), equal_var=False)
    low, high = welch.confidence_interval(0.95)
    assert (found.ci_low, found.ci_high) == pytest.approx((low, high))


def test_the_interval_of_a_share_ends_at_one() -> None:
    draws = np.random.default_rng(0).normal(0.9, 0.1, size=200)
    free = comparison.from_resamples(0.9, draws, num_blocks=20)
    cut = comparison.from_resamples(0.9, draws, num_blocks=20, bounds=intervals.SHARE)
    assert free.ci_high is not None and free.ci_high > 1
    assert cut == free._replace(ci_high=1.0)


def test_one_block_of_documents_tells_no_interval() -> None:
    one = np.ones(1)
    found = comparison.difference([of_ratio(2 * one, one)], [of_ratio(one, one)])
    assert found == comparison.Difference(1.0, None, None, None)
    assert not found.is_distinguishable


def test_the_spread_over_seeds_is_students() -> None:
    found = comparison.spread([1.0, 2.0, 4.0])
    low, high = stats.t.interval(0.95, 2, 7 / 3, stats.sem([1, 2, 4]))
    assert found == pytest.approx((7 / 3, low, high, np.std([1, 2, 4], ddof=1)))


def test_one_seed_has_no_spread() -> None:
    assert comparison.spread([2.0]) == comparison.Spread(2.0, None, None, None)


@pytest.mark.parametrize("num_documents", [20, 60, 200])
def test_paired_intervals_hold_the_true_difference(num_documents: int) -> None:
    generator = np.random.default_rng(num_documents)
    covered = 0
    for _ in range(2000):
        den = generator.integers(20, 200, size=num_documents).astype(float)
        own = generator.gamma(16, 2 / 16, size=num_documents)
        gap = generator.gamma(16, 0.1 / 16, size=num_documents)
        noise = generator.normal(0, np.sqrt(den) / 4, size=(2, num_documents))
        first = of_ratio(den * (own + gap) + noise[0], den)
        found = comparison.difference([first], [of_ratio(den * own + noise[1], den)])
        assert found.ci_low is not None and found.ci_high is not None
        covered += found.ci_low <= 0.1 <= found.ci_high
    assert 0.94 <= covered / 2000 <= 0.96


def test_jackknife_intervals_hold_a_true_entropy() -> None:
    share = np.array([0.4, 0.3, 0.2, 0.1])
    truth = float(np.exp(-(share * np.log(share)).sum()))
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        mass = generator.multinomial(100, share, size=20).astype(float)

        def n_eff(total: np.ndarray) -> np.ndarray:
            s = total / total.sum(-1, keepdims=True)
            return np.exp(-(s * np.log(s)).sum(-1))

        total = mass.sum(0)
        found = intervals.jackknife(
            float(n_eff(total)), n_eff(total - mass), mass.sum(1)
        )
        assert found.ci_low is not None and found.ci_high is not None
        covered += found.ci_low <= truth <= found.ci_high
    assert 0.94 <= covered / 2000 <= 0.96
