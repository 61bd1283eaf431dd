"""Activation functions of SAEs, with straight-through gradients for thresholds."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from trilemma import selection


def relu(pre_acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
    """Return the positive part."""
    return torch.relu(pre_acts)


def topk(
    pre_acts: Float[Tensor, "batch d_sae"], k: int
) -> Float[Tensor, "batch d_sae"]:
    """Return the positive part of the k largest entries of each row, zero elsewhere."""
    columns = selection.largest_in_rows(pre_acts, k)
    values = torch.relu(pre_acts.gather(1, columns))
    return torch.zeros_like(pre_acts).scatter(1, columns, values)


def jumprelu(
    pre_acts: Float[Tensor, "batch d_sae"], threshold: Float[Tensor, "d_sae"]
) -> Float[Tensor, "batch d_sae"]:
    """Return the positive entries that exceed their latent's threshold, strictly."""
    return torch.relu(pre_acts) * (pre_acts > threshold)


def jumprelu_ste(
    pre_acts: Float[Tensor, "*shape"],
    threshold: Float[Tensor, "*shape"],
    *,
    bandwidth: float,
) -> Float[Tensor, "*shape"]:
    """Return JumpReLU, whose gradient reaches a positive threshold too.

    Rajamanoharan et al. (2024), "Jumping ahead", section 3: the gradient in theta is
    -(theta / epsilon) K((z - theta) / epsilon), K the unit box, epsilon the bandwidth;
    the gradient in z is 1[z > theta].
    """
    result: Tensor = _JumpReLU.apply(pre_acts, threshold, bandwidth)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return result


def step_ste(
    pre_acts: Float[Tensor, "*shape"],
    threshold: Float[Tensor, "*shape"],
    *,
    bandwidth: float,
) -> Float[Tensor, "*shape"]:
    """Return 1 where the pre-activation exceeds the threshold, else 0.

    Rajamanoharan et al. (2024), section 3: the gradient in theta is
    -(1 / epsilon) K((z - theta) / epsilon); there is none in z.
    """
    result: Tensor = _Step.apply(pre_acts, threshold, bandwidth)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return result


# `Any` below: the context is torch's own, which has no type for saved attributes.


class _JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pre_acts: Tensor, threshold: Tensor, bandwidth: float
    ) -> Tensor:
        ctx.save_for_backward(pre_acts, threshold)
        ctx.bandwidth = bandwidth
        return pre_acts * (pre_acts > threshold)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        pre_acts, threshold = ctx.saved_tensors
        is_near = _is_near(pre_acts, threshold, ctx.bandwidth)
        in_threshold = grad * is_near * threshold * (-1 / ctx.bandwidth)
        return grad * (pre_acts > threshold), in_threshold, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pre_acts: Tensor, threshold: Tensor, bandwidth: float
    ) -> Tensor:
        ctx.save_for_backward(pre_acts, threshold)
        ctx.bandwidth = bandwidth
        return (pre_acts > threshold).to(pre_acts.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[None, Tensor, None]:
        (grad,) = grads
        pre_acts, threshold = ctx.saved_tensors
        is_near = _is_near(pre_acts, threshold, ctx.bandwidth)
        return None, grad * is_near * (-1 / ctx.bandwidth), None


def _is_near(pre_acts: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    return (pre_acts - threshold).abs() < bandwidth / 2
