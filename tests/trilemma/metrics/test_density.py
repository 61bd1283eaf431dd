"""Tests of how many latents fire on a token, and how many tokens fire a latent."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trilemma.metrics import passes
from trilemma.metrics import density
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.tally import Wanted, sweep


def measure(acts: Tensor) -> dict[str, Scalar]:
    baseline = passes.prepared(acts)
    rows = baseline.rows(passes.batches(acts, [len(acts)]))
    coder = passes.Itself(torch.eye(acts.shape[1]))
    wanted = Wanted(rate_rows=1, null_seed=0, score=None)
    tally = sweep(coder, baseline, rows, wanted=wanted)
    return density.scalars(tally, passes.CONFIG)


def staircase() -> Tensor:
    """Return 100 tokens; latent j fires on the last j of them, for j up to 20."""
    return (torch.arange(100)[:, None] >= 100 - torch.arange(21)).float()


def test_l0_and_its_quantiles_over_tokens() -> None:
    found = measure(staircase())
    assert found["l0"].value == pytest.approx(sum(range(21)) / 100)
    # 80 tokens fire nothing, and the others 1, 2, ..., 20 latents.
    assert found["l0_p5"].value == found["l0_p50"].value == 0
    assert found["l0_p95"].value == 15


def test_no_interval_of_l0_passes_the_number_of_latents() -> None:
    """Else bits of a support of more latents than there are would be made up."""
    acts = torch.ones(100, 4)
    acts[:20, 3] = 0  # one document of five is unlike the others
    found = measure(acts)["l0"]
    assert found.value == pytest.approx(3.8)
    assert found.ci_high == 4


def test_densities_and_their_quantiles_over_live_latents() -> None:
    found = measure(staircase())
    assert found["density"].value == pytest.approx(sum(range(21)) / 2100)
    assert found["density_p5"].value == pytest.approx(0.01)
    assert found["density_p50"].value == pytest.approx(0.10)
    assert found["density_p95"].value == pytest.approx(0.19)
    assert found["density_p50"].n == 20


def test_dense_latents_and_their_share_of_firings() -> None:
    found = measure(staircase())
    assert found["dense_1pct_fraction"].value == pytest.approx(19 / 21)
    assert found["dense_10pct_fraction"].value == pytest.approx(10 / 21)
    assert found["dense_10pct_firing_fraction"].value == pytest.approx(155 / 210)


def test_a_silent_code_has_no_quantiles_of_density() -> None:
    found = measure(torch.zeros(20, 4))
    assert found["l0"].value == found["l0_p95"].value == 0
    for name in ("density_p50", "dense_1pct_firing_fraction"):
        assert (found[name].value, found[name].reason) == (None, "no latent fired")


@pytest.mark.parametrize("percent", [5, 50, 95])
def test_a_quantile_of_counts_is_that_of_the_numbers_counted(percent: int) -> None:
    numbers = np.random.default_rng(0).integers(0, 40, size=333)
    expected = np.quantile(numbers, percent / 100, method="inverted_cdf")
    assert density.quantile(np.bincount(numbers), percent) == expected
