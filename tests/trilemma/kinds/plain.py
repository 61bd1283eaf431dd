"""Every kind once more: dense, in float64, straight from the papers' formulas.

Slow and without a trick, so that losses and gradients of the library can be held
against PyTorch's own autograd of these.
"""

import math

import torch
from torch import Tensor

from trilemma.config.saes import (
    BatchTopK,
    Gated,
    Group,
    JumpReLU,
    Matryoshka,
    ReLU,
    SAEConfig,
    TopK,
    Tree,
)


def loss(  # noqa: PLR0911  # a formula for each kind
    config: SAEConfig,
    weights: dict[str, Tensor],
    x: Tensor,
    *,
    variance: float,
    coefficient: float,
    gamma: Tensor | float = 1.0,
) -> Tensor:
    """Return error / variance + coefficient * penalty / d_in of float64 weights."""
    W_dec, b_dec = weights["W_dec"], weights["b_dec"]
    pre = (x - b_dec) @ weights["W_enc"] + weights["b_enc"]
    size, d_in = x.shape

    def error(x_hat: Tensor) -> Tensor:
        return (gamma * (x - x_hat)).square().sum() / size

    def of(acts: Tensor, penalty: Tensor | float) -> Tensor:
        x_hat = acts @ W_dec + b_dec
        return error(x_hat) / variance + coefficient / d_in * penalty

    match config:
        case ReLU():
            acts = pre.relu()
            return of(acts, _relu_penalty(config, acts, W_dec) / size)
        case Group(group_size=width):
            acts = pre.relu()
            norms = acts.view(size, -1, width).square().sum(2).add(1e-300).sqrt()
            return of(acts, math.sqrt(width) * norms.sum() / size)
        case Tree():
            acts = pre.relu()
            for latent in range(config.num_roots, config.d_sae):
                parent = (latent - config.num_roots) // config.branching
                is_orphan = acts[:, parent] == 0
                acts = acts.clone()
                acts[is_orphan, latent] = 0
            return of(acts, acts.sum() / size)
        case Gated():
            pi = (x - b_dec) @ weights["W_enc"]
            gate = pi + weights["b_enc"]
            magnitude = (weights["r_mag"].exp() * pi + weights["b_mag"]).relu()
            through = gate.relu() @ W_dec.detach() + b_dec.detach()
            return (
                of((gate > 0) * magnitude, gate.relu().sum() / size)
                + error(through) / variance
            )
        case TopK(k=k):
            floor = pre.topk(k, dim=1).values[:, -1:]
            return of(pre.relu() * (pre >= floor), 0.0)
        case BatchTopK(k=k):
            floor = pre.flatten().topk(k * size).values[-1]
            return of(pre.relu() * (pre >= floor), 0.0)
        case Matryoshka(k=k, widths=widths):
            floor = pre.flatten().topk(k * size).values[-1]
            acts = pre.relu() * (pre >= floor)
            errors = [error(acts[:, :m] @ W_dec[:m] + b_dec) for m in widths]
            return torch.stack(errors).mean() / variance
        case JumpReLU():
            raise AssertionError("its gradients are not those of its values")


def jumprelu_gradients(
    config: JumpReLU,
    weights: dict[str, Tensor],
    x: Tensor,
    *,
    variance: float,
    coefficient: float,
    gamma: Tensor | float = 1.0,
) -> dict[str, Tensor]:
    """Return the pseudo-gradients of the step penalty, term by term.

    Rajamanoharan et al. (2024), "Jumping ahead", section 3, with theta = exp(log theta)
    and K the box of width epsilon.
    """
    with torch.no_grad():
        W_enc, W_dec, b_dec = weights["W_enc"], weights["W_dec"], weights["b_dec"]
        theta, epsilon = weights["log_threshold"].exp(), config.bandwidth
        size, d_in = x.shape
        z = (x - b_dec) @ W_enc + weights["b_enc"]
        acts = z * (z > theta)
        residual = acts @ W_dec + b_dec - x
        g = 2 * gamma**2 * residual / size / variance
        in_acts = g @ W_dec.t()
        near = ((z - theta).abs() < epsilon / 2) / epsilon
        l0 = (z > theta).sum() / size
        in_l0 = coefficient / d_in
        if config.target_l0 is not None:
            in_l0 = in_l0 * 2 * (l0 / config.target_l0 - 1) / config.target_l0
        in_theta = -(in_acts * theta * near).sum(0) - in_l0 / size * near.sum(0)
        in_z = in_acts * (z > theta)
        return {
            "W_enc": (x - b_dec).t() @ in_z,
            "b_enc": in_z.sum(0),
            "W_dec": acts.t() @ g,
            "b_dec": g.sum(0) - W_enc @ in_z.sum(0),
            "log_threshold": in_theta * theta,
        }


def _relu_penalty(config: ReLU, acts: Tensor, W_dec: Tensor) -> Tensor:
    match config.penalty:
        case "l1":
            return acts.sum()
        case "l1_decoder_norm":
            return (acts * W_dec.norm(dim=1)).sum()
        case "log":
            assert config.log_scale is not None
            return (1 + acts / config.log_scale).log().sum()
        case "lp":
            assert config.p is not None
            return acts[acts > 0].pow(config.p).sum()
