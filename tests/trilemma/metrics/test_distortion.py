"""Tests of distortion against values known by hand."""

import pytest
import torch
from torch import Tensor

from trilemma.metrics import distortion


def fvu(x: Tensor, x_hat: Tensor) -> float:
    errors = distortion.row_errors(x, x_hat, mean=x.double().mean(0))
    return float(errors.squared_error.sum() / errors.squared_deviation.sum())


def test_the_worked_example_has_mse_1_and_fvu_a_fifth() -> None:
    x, x_hat = torch.tensor([[2.0, 0], [0, 4]]), torch.tensor([[2.0, 1], [0, 3]])
    errors = distortion.row_errors(x, x_hat, mean=x.double().mean(0))
    assert errors.squared_error.mean() == 1
    assert fvu(x, x_hat) == pytest.approx(0.2)


def test_the_mean_as_prediction_explains_nothing() -> None:
    x = 1 + 0.3 * torch.randn(500, 768, generator=torch.Generator().manual_seed(0))
    assert fvu(x, x.mean(0).expand_as(x)) == pytest.approx(1, abs=1e-6)


def test_a_constant_bias_counts_as_error() -> None:
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    total = float((x.double() - x.double().mean(0)).square().sum())
    assert fvu(x, x + 0.5) == pytest.approx(100 * 4 * 0.25 / total, rel=1e-5)


def test_a_large_common_offset_costs_no_digits() -> None:
    noise = torch.randn(1000, 16, generator=torch.Generator().manual_seed(0))
    x = (1000 + noise.double()).float()
    offset = x.double().mean(0)
    expected = float((x.double() - offset).square().sum() / 4)
    x_hat = (offset + (x.double() - offset) / 2).float()
    assert fvu(x, x_hat) * expected * 4 == pytest.approx(expected, rel=1e-4)


def test_the_cosine_of_a_shrunk_row_is_1_and_of_a_zero_row_0() -> None:
    x = torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    x_hat = torch.tensor([[0.3, 0.4], [0.0, 0.0]])
    errors = distortion.row_errors(x, x_hat, mean=torch.zeros(2).double())
    assert errors.cosine.tolist() == pytest.approx([1, 0])
