"""Losses of SAE training."""

import torch
from torch.nn import functional

from trilemma import losses


def test_mse_sums_dimensions_and_averages_rows() -> None:
    x = torch.tensor([[2.0, 0.0], [0.0, 4.0]])
    x_hat = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    assert float(losses.mse(x, x_hat)) == 1.0


def test_mse_does_not_depend_on_the_batch_size() -> None:
    x, x_hat = torch.randn(8, 3), torch.randn(8, 3)
    twice = losses.mse(x.repeat(2, 1), x_hat.repeat(2, 1))
    torch.testing.assert_close(twice, losses.mse(x, x_hat))


def test_l1_averages_rows() -> None:
    assert float(losses.l1(torch.tensor([1.0, 2.0, 3.0]), batch=2)) == 3.0


def test_l0_counts_latents_above_their_threshold() -> None:
    pre_acts, threshold = torch.tensor([0.4, 0.6, 0.9]), torch.full((3,), 0.5)
    assert float(losses.l0(pre_acts, threshold, bandwidth=0.1, batch=1)) == 2.0


def test_l0_pushes_thresholds_up() -> None:
    pre_acts = torch.tensor([0.48, 0.9])
    threshold = torch.full((2,), 0.5, requires_grad=True)
    loss = losses.l0(pre_acts, threshold, bandwidth=0.1, batch=1)
    torch.autograd.backward(loss)
    assert threshold.grad is not None
    torch.testing.assert_close(threshold.grad, torch.tensor([-10.0, 0.0]))


def auxk_loss(residual: torch.Tensor, W_dec: torch.Tensor, k: int) -> torch.Tensor:
    return losses.auxk(
        residual,
        residual,
        W_enc=W_dec.t(),
        b_enc=torch.zeros(len(W_dec)),
        W_dec=W_dec,
        center=torch.zeros(W_dec.shape[1]),
        k=k,
        mean=lambda mean: mean,
    )


def auxk(residual: torch.Tensor, W_dec: torch.Tensor, k: int) -> float:
    return float(auxk_loss(residual, W_dec, k))


def test_auxk_is_zero_where_dead_latents_explain_the_residual() -> None:
    residual = functional.one_hot(torch.tensor([0, 1, 2]), 3).float()
    assert auxk(residual, torch.eye(3), 1) == 0.0


def test_auxk_is_zero_where_there_is_no_residual() -> None:
    assert auxk(torch.zeros(4, 3), torch.eye(3), 2) == 0.0


def test_auxk_has_no_gradient_where_the_residual_has_no_variance() -> None:
    residual, W_dec = torch.ones(1, 3), torch.eye(3).requires_grad_()
    torch.autograd.backward(auxk_loss(residual, W_dec, 2))
    assert W_dec.grad is not None
    assert not bool(W_dec.grad.any())


def test_auxk_does_not_depend_on_the_scale_of_the_residual() -> None:
    residual = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    first, second = auxk(residual, torch.eye(3), 1), auxk(7 * residual, torch.eye(3), 1)
    assert abs(first - second) < 1e-6
