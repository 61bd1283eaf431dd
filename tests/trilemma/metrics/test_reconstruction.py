"""Tests of distortion metrics against values known by hand, and of their sums."""

import math

import pytest
import torch
from torch import Tensor

from tests.trilemma.metrics import passes
from trilemma.metrics import reconstruction
from trilemma.metrics.reconstruction import Reconstruction
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.streaming import Batch


def measure(
    x: Tensor, x_hat: Tensor, sizes: list[int] | None = None
) -> dict[str, Scalar]:
    """Return the metrics of given reconstructions of rows."""
    num_documents = min(5, len(x))
    baseline = passes.prepared(x, num_documents=num_documents)
    parts = passes.batches(x, sizes or [len(x)], num_documents=num_documents)
    errors = Reconstruction(baseline, device=torch.device("cpu"))
    none = torch.zeros(0, dtype=torch.int64)
    for rows in baseline.rows(parts):
        seen = x_hat[torch.from_numpy(rows.position)].float()
        errors.add(Batch(rows, rows.x, seen, none, none, torch.zeros(0)))
    return reconstruction.scalars(*errors.sums(), passes.CONFIG)


def values(found: dict[str, Scalar]) -> dict[str, float]:
    assert all(scalar.value is not None for scalar in found.values())
    return {name: scalar.value or 0.0 for name, scalar in found.items()}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_worked_example() -> None:
    x, x_hat = torch.tensor([[2.0, 0], [0, 4]]), torch.tensor([[2.0, 1], [0, 3]])
    found = values(measure(x, x_hat))
    # The mean is (1, 2): both rows lie 5 from it, squared, and each misses by 1.
    assert found == pytest.approx(
        {
            "mse": 1,
            "mse_per_dim": 1 / 2,
            "fvu": 0.2,
            "ev": 0.8,
            "ev_uncentred": 1 - 2 / 20,
            "ev_ratio_mean": 1 - (1 / 5 + 1 / 5) / 2,
            "ev_dl": 1 - 2 / 10,  # the errors (0, -1) and (0, 1) have a mean of 0
            "cos": (2 / math.sqrt(5) + 1) / 2,
            "gamma": (5 + 9) / (4 + 12),
        }
    )


def test_a_constant_predictor_explains_nothing_of_mean_shifted_data() -> None:
    x = 1 + 0.3 * normal(2000, 768)
    found = values(measure(x, x.mean(0).expand_as(x)))
    assert found["ev"] == pytest.approx(0, abs=1e-3)
    assert found["ev_dl"] == pytest.approx(0, abs=1e-3)
    assert found["ev_ratio_mean"] == pytest.approx(0, abs=1e-3)
    # What it scores about zero, as SAEBench computes it: 1 / (1 + 0.3^2).
    assert found["ev_uncentred"] == pytest.approx(0.917, abs=1e-3)


def test_a_constant_offset_counts_in_ev_and_not_in_ev_dl() -> None:
    x = normal(200, 4)
    total = float((x.double() - x.double().mean(0)).square().sum())
    found = values(measure(x, x + 0.5))
    assert found["ev"] == pytest.approx(1 - 200 * 4 * 0.25 / total, rel=1e-6)
    assert found["ev_dl"] == pytest.approx(1, abs=1e-9)


def test_heavy_tails_set_the_mean_of_ratios_apart_from_the_ratio_of_means() -> None:
    x = torch.cat([normal(99, 8), 1000 * normal(1, 8, seed=1)])
    x_hat = torch.where(torch.arange(100)[:, None] < 99, x.mean(0), x)
    found = values(measure(x, x_hat))
    assert found["ev"] > 0.98
    assert found["ev_ratio_mean"] == pytest.approx(0.01, abs=1e-6)


def test_gamma_is_the_factor_that_the_reconstruction_is_short_of() -> None:
    x = normal(100, 4)
    found = values(measure(x, 0.8 * x))
    assert found["gamma"] == pytest.approx(0.8, rel=1e-6)
    assert found["cos"] == pytest.approx(1)


@pytest.mark.parametrize("num_batches", [7, 64])
def test_batches_leave_no_trace(num_batches: int) -> None:
    x = 3 + normal(640, 16)
    x_hat = x + 0.3 * normal(640, 16, seed=1)
    whole = measure(x, x_hat)
    parts = measure(x, x_hat, passes.uneven(640, num_batches))
    for name, scalar in whole.items():
        assert parts[name][:3] == pytest.approx(scalar[:3], rel=1e-12), name


def test_bfloat16_rows_score_what_float32_rows_do() -> None:
    x = 0.5 + normal(4000, 64)
    x_hat = x + 0.3 * normal(4000, 64, seed=1)
    exact, rounded = values(measure(x, x_hat)), values(measure(x.bfloat16(), x_hat))
    assert rounded == pytest.approx(exact, rel=1e-3)


def test_a_large_common_offset_costs_no_digits() -> None:
    noise, error = normal(1000, 16), 0.3 * normal(1000, 16, seed=1)
    x = 1000 + noise
    found = values(measure(x, x + error))
    exact, exact_error = x.double(), (x + error).double() - x.double()
    centred = exact - exact.mean(0)
    fvu = exact_error.square().sum() / centred.square().sum()
    assert found["fvu"] == pytest.approx(float(fvu), rel=1e-9)
    unexplained = exact_error.var(0).sum() / exact.var(0).sum()
    assert found["ev_dl"] == pytest.approx(1 - float(unexplained), rel=1e-9)
    # float32 holds 1000 to 6e-5, and that is all that is lost.
    assert found["mse"] == pytest.approx(float(error.square().sum(1).mean()), rel=1e-3)


def test_equal_rows_leave_shares_of_variance_undefined_and_say_so() -> None:
    x = torch.full((50, 3), 0.1)
    found = measure(x, x + 0.01)
    for name in ("fvu", "ev", "ev_dl", "ev_ratio_mean"):
        assert found[name][:3] == (None, None, None)
        assert found[name].reason == "the held-out activations do not vary"
    assert found["mse"].value == pytest.approx(3e-4, rel=1e-4)


def test_a_reconstruction_of_nothing_has_no_gamma_and_no_cosine() -> None:
    x = normal(50, 3)
    found = measure(x, torch.zeros_like(x))
    assert found["gamma"].value is None
    assert found["gamma"].reason == "the sum of x . x_hat is not above zero"
    assert found["cos"].value is None
    assert found["cos"].reason == "x, or x_hat, is zero on every token"
    assert found["ev_uncentred"].value == 0


def test_every_interval_holds_its_value() -> None:
    x = normal(200, 4)
    for name, scalar in measure(x, x + 0.3 * normal(200, 4, seed=1)).items():
        assert scalar.ci_low is not None and scalar.ci_high is not None, name
        assert scalar.value is not None
        assert scalar.ci_low < scalar.value < scalar.ci_high, name
