"""Tests of the PCA control."""

import numpy as np
import pytest
import torch
from torch import Tensor

from trilemma.metrics import pca


@pytest.fixture
def rows() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    spread = torch.linspace(3, 0.1, 12)
    rotation: Tensor = torch.linalg.qr(torch.randn(12, 12, generator=generator))[0]
    return torch.randn(4000, 12, generator=generator) * spread @ rotation + 5


def fit(rows: Tensor) -> pca.PCA:
    return pca.fit(rows, mean=rows.double().mean(0))


def test_components_are_orthonormal_and_ordered(rows: Tensor) -> None:
    found = fit(rows)
    eye = found.components @ found.components.T
    assert torch.allclose(eye, torch.eye(12, dtype=torch.float64), atol=1e-10)
    assert (found.eigenvalues.diff() <= 0).all()


def test_signs_do_not_depend_on_the_order_of_rows(rows: Tensor) -> None:
    assert torch.allclose(fit(rows).components, fit(rows.flip(0)).components, atol=1e-6)


def test_the_rate_rises_as_the_bins_narrow(rows: Tensor) -> None:
    curve = pca.rate_curve(fit(rows), rows)
    assert curve.rate_bits[0] == 0
    assert (curve.width.diff() < 0).all()
    assert (curve.rate_bits.diff() >= -1e-9).all()


def measured_bits(found: pca.PCA, rows: Tensor, width: float) -> float:
    coder = pca.QuantisedPCA(found.mean.float(), found.components.float(), width)
    symbol = (coder.encode(rows) / width).round()
    bits = 0.0
    for column in symbol.T:
        count = column.unique(return_counts=True)[1]
        share = count.double() / len(rows)
        bits -= float((share * share.log2()).sum())
    return bits


@pytest.mark.parametrize("bits", [2.0, 10.0, 40.0])
def test_the_width_for_a_rate_gives_that_rate(rows: Tensor, bits: float) -> None:
    found = fit(rows)
    width = pca.width_at(pca.rate_curve(found, rows), bits, num_components=12)
    assert measured_bits(found, rows, width) == pytest.approx(bits, rel=0.02)


def test_a_rate_beyond_the_curve_is_extrapolated() -> None:
    width = 2.0 ** -torch.arange(5, dtype=torch.float64)
    curve = pca.RateCurve(width, 3.0 * torch.arange(5, dtype=torch.float64))
    assert pca.width_at(curve, 18.0, num_components=3) == pytest.approx(2.0**-6)


def test_rows_that_do_not_vary_have_no_rate() -> None:
    rows = torch.ones(10, 3)
    curve = pca.rate_curve(pca.fit(rows, mean=rows.double().mean(0)), rows)
    assert curve.rate_bits.tolist() == [0.0]


def test_equal_rows_beside_the_mean_end_the_curve_without_a_rate() -> None:
    rows = torch.ones(10, 3)
    mean = torch.full((3,), 0.9, dtype=torch.float64)
    curve = pca.rate_curve(pca.fit(rows, mean=mean), rows)
    assert len(curve.width) < 200
    assert curve.rate_bits.max() == 0


def test_rows_of_few_values_end_the_curve() -> None:
    rows = torch.eye(3).repeat(4, 1)
    curve = pca.rate_curve(pca.fit(rows, mean=rows.double().mean(0)), rows)
    assert len(curve.width) < 200
    assert curve.rate_bits[-1] < 6


def test_narrow_bins_reconstruct_the_rows(rows: Tensor) -> None:
    found = fit(rows)
    coder = pca.QuantisedPCA(found.mean.float(), found.components.float(), 1e-4)
    assert torch.allclose(coder.decode(coder.encode(rows)), rows, atol=1e-3)


def test_at_a_low_rate_only_the_leading_components_are_sent(rows: Tensor) -> None:
    found = fit(rows)
    width = pca.width_at(pca.rate_curve(found, rows), 3.0, num_components=12)
    coder = pca.QuantisedPCA(found.mean.float(), found.components.float(), width)
    share = (coder.encode(rows) != 0).double().mean(0).numpy()
    assert share[0] > 0.1
    assert np.all(share[8:] == 0)
