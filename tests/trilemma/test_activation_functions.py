"""Activation functions and the gradients of their thresholds."""

import torch

from trilemma import activation_functions


def test_topk_keeps_at_most_k_latents() -> None:
    pre_acts = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    assert int((activation_functions.topk(pre_acts, 40) != 0).sum(1).max()) <= 40


def test_topk_keeps_the_k_largest() -> None:
    pre_acts = torch.tensor([[3.0, 1.0, 2.0, -1.0]])
    acts = activation_functions.topk(pre_acts, 2)
    assert acts.tolist() == [[3.0, 0.0, 2.0, 0.0]]


def test_topk_never_keeps_a_negative_latent() -> None:
    acts = activation_functions.topk(torch.tensor([[1.0, -1.0, -2.0]]), 2)
    assert acts.tolist() == [[1.0, 0.0, 0.0]]


def test_topk_passes_gradients_to_what_it_keeps() -> None:
    pre_acts = torch.tensor([[3.0, 1.0, 2.0]], requires_grad=True)
    torch.autograd.backward(activation_functions.topk(pre_acts, 2).sum())
    assert pre_acts.grad is not None
    assert pre_acts.grad.tolist() == [[1.0, 0.0, 1.0]]


def test_jumprelu_is_strict_at_its_threshold() -> None:
    pre_acts = torch.tensor([[0.5, 0.5, 0.6, -1.0]])
    acts = activation_functions.jumprelu(pre_acts, torch.tensor([0.5, 0.4, 0.5, 0.0]))
    assert torch.equal(acts, torch.tensor([[0.0, 0.5, 0.6, 0.0]]))


def test_jumprelu_ste_gives_the_values_of_jumprelu() -> None:
    pre_acts = torch.randn(20, 8, generator=torch.Generator().manual_seed(1))
    threshold = torch.rand(8, generator=torch.Generator().manual_seed(2)) + 0.01
    found = activation_functions.jumprelu_ste(
        pre_acts, threshold.expand_as(pre_acts), bandwidth=0.1
    )
    assert torch.equal(found, activation_functions.jumprelu(pre_acts, threshold))


def test_jumprelu_gradients_follow_the_formula() -> None:
    pre_acts = torch.tensor([0.2, 0.45, 0.52, 0.9], requires_grad=True)
    threshold = torch.full((4,), 0.5, requires_grad=True)
    incoming = torch.tensor([1.0, 2.0, 3.0, 4.0])
    acts = activation_functions.jumprelu_ste(pre_acts, threshold, bandwidth=0.2)
    torch.autograd.backward(acts, incoming)
    assert pre_acts.grad is not None
    assert threshold.grad is not None
    # -(theta / epsilon) where |z - theta| < epsilon / 2, that is for the middle two.
    expected = incoming * torch.tensor([0.0, -2.5, -2.5, 0.0])
    torch.testing.assert_close(threshold.grad, expected)
    assert pre_acts.grad.tolist() == [0.0, 0.0, 3.0, 4.0]


def test_step_gradient_follows_the_formula() -> None:
    pre_acts = torch.tensor([0.2, 0.45, 0.52, 0.9], requires_grad=True)
    threshold = torch.full((4,), 0.5, requires_grad=True)
    on = activation_functions.step_ste(pre_acts, threshold, bandwidth=0.2)
    torch.autograd.backward(on.sum())
    assert threshold.grad is not None
    torch.testing.assert_close(threshold.grad, torch.tensor([0.0, -5.0, -5.0, 0.0]))
    assert on.tolist() == [0.0, 0.0, 1.0, 1.0]
    assert pre_acts.grad is None
