"""Activation functions of SAEs, with straight-through gradients for thresholds."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
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


def gated(
    pre_acts: Float[Tensor, "*shape"],
    *,
    b_gate: Float[Tensor, "*#shape"],
    b_mag: Float[Tensor, "*#shape"],
    r_mag: Float[Tensor, "*#shape"],
) -> Float[Tensor, "*shape"]:
    """Return magnitudes where the gate is open; `pre_acts` are without a bias.

    Rajamanoharan et al. (2024), "Improving dictionary learning with gated sparse
    autoencoders", equations 5 to 7: 1[z + b_gate > 0] ReLU(exp(r_mag) z + b_mag).
    """
    is_open = pre_acts + b_gate > 0
    return torch.relu(pre_acts * r_mag.exp() + b_mag) * is_open


def tree(
    pre_acts: Float[Tensor, "batch d_sae"], parents: Int64[Tensor, "d_sae"]
) -> Float[Tensor, "batch d_sae"]:
    """Return the positive part where a latent's ancestors are all positive too."""
    return torch.where(tree_is_on(pre_acts, parents), pre_acts, 0.0)


def tree_is_on(
    pre_acts: Float[Tensor, "batch d_sae"], parents: Int64[Tensor, "d_sae"]
) -> Bool[Tensor, "batch d_sae"]:
    """Return which latents are positive and have only positive ancestors.

    Roots have the parent -1 and come first; a level's children follow it, in order.
    """
    is_on = pre_acts > 0
    for start, stop in tree_levels(parents):
        is_on[:, start:stop] &= is_on[:, parents[start:stop]]
    return is_on


def tree_levels(parents: Int64[Tensor, "d_sae"]) -> list[tuple[int, int]]:
    """Return first and last but one latent of each level below the roots."""
    first = int((parents < 0).sum())
    levels = []
    while first < len(parents):
        # A level's parents are the level before it.
        stop = int(torch.searchsorted(parents[first:].contiguous(), first)) + first
        levels.append((first, stop))
        first = stop
    return levels


def jumprelu_ste(
    pre_acts: Float[Tensor, "*shape"],
    threshold: Float[Tensor, "*#shape"],
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
    threshold: Float[Tensor, "*#shape"],
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
    generate_vmap_rule = True

    @staticmethod
    def forward(pre_acts: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        return pre_acts * (pre_acts > threshold)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        pre_acts, threshold, ctx.bandwidth = inputs
        ctx.save_for_backward(pre_acts, threshold)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        pre_acts, threshold = ctx.saved_tensors
        near = _near(grad, pre_acts, threshold, ctx.bandwidth)
        return grad * (pre_acts > threshold), near * threshold, None


class _Step(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(pre_acts: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        return (pre_acts > threshold).to(pre_acts.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        pre_acts, threshold, ctx.bandwidth = inputs
        ctx.save_for_backward(pre_acts, threshold)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[None, Tensor, None]:
        (grad,) = grads
        pre_acts, threshold = ctx.saved_tensors
        return None, _near(grad, pre_acts, threshold, ctx.bandwidth), None


def _near(
    grad: Tensor, pre_acts: Tensor, threshold: Tensor, bandwidth: float
) -> Tensor:
    """Return -K((z - theta) / epsilon) / epsilon times the gradient, per threshold."""
    is_near = (pre_acts - threshold).abs() < bandwidth / 2
    near = (grad * is_near).float() * (-1 / bandwidth)
    return near.sum_to_size(threshold.shape)
