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

Weights = dict[str, Tensor]
# Rounds of p annealing before the last step, of the ten that p falls in.
_LAST_ROUND = 9 / 10


def loss(  # noqa: PLR0911, PLR0915  # a formula for each kind
    config: SAEConfig,
    weights: Weights,
    x: Tensor,
    *,
    y: Tensor | None = None,
    variance: float,
    coefficient: float,
    gamma: Tensor | float,
    dead: list[int],
) -> Tensor:
    """Return the loss of float64 weights at the last step.

    It is error / variance + coefficient * penalty / d_in, and AuxK where there is any;
    gamma weighs the dimensions of the error. A transcoder of x to y subtracts nothing
    from x, and adds x W_skip where it skips.
    """
    W_dec, b_dec = weights["W_dec"], weights["b_dec"]
    size = len(x)
    read, wanted = (x - b_dec, x) if y is None else (x, y)
    if "W_skip" in weights:
        wanted = wanted - x @ weights["W_skip"]
    d_in = wanted.shape[1]
    pre = read @ weights["W_enc"] + weights["b_enc"]

    def error(x_hat: Tensor) -> Tensor:
        return (gamma * (wanted - x_hat)).square().sum() / size

    def of(acts: Tensor, penalty: Tensor) -> Tensor:
        found = error(acts @ W_dec + b_dec) / variance
        return found + coefficient / d_in * penalty

    def kept(floor: Tensor, widths: tuple[int, ...], auxk_coefficient: float) -> Tensor:
        acts = pre.relu() * (pre >= floor)
        x_hats = [acts[:, :m] @ W_dec[:m] + b_dec for m in widths]
        found = torch.stack([error(x_hat) for x_hat in x_hats]).mean() / variance
        residual = wanted - x_hats[-1]
        return found + auxk_coefficient * _auxk(pre, W_dec, residual, dead)

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
            pi = read @ weights["W_enc"]
            gate = pi + weights["b_enc"]
            magnitude = (weights["r_mag"].exp() * pi + weights["b_mag"]).relu()
            through = gate.relu() @ W_dec.detach() + b_dec.detach()
            aside = (gamma * (wanted.detach() - through)).square().sum() / size
            return (
                of((gate > 0) * magnitude, gate.relu().sum() / size) + aside / variance
            )
        case TopK(k=k):
            floor = pre.topk(k, dim=1).values[:, -1:]
            return kept(floor, (config.d_sae,), config.auxk_coefficient)
        case BatchTopK(k=k):
            floor = pre.flatten().topk(k * size).values[-1]
            return kept(floor, (config.d_sae,), config.auxk_coefficient)
        case Matryoshka(k=k, widths=widths):
            floor = pre.flatten().topk(k * size).values[-1]
            return kept(floor, widths, config.auxk_coefficient)
        case JumpReLU():
            theta = weights["log_threshold"].exp()
            is_on = pre > theta
            # The box kernel's integral has the paper's gradient in theta, and with
            # itself taken away no value (Rajamanoharan et al., 2024, section 3).
            ramp = ((pre.detach() - theta) / config.bandwidth + 0.5).clamp(0, 1)
            in_theta = ramp - ramp.detach()
            acts = pre * is_on + theta.detach() * in_theta
            l0 = (is_on + in_theta).sum() / size
            if config.target_l0 is not None:
                return of(acts, d_in * (l0 / config.target_l0 - 1).square())
            if config.penalty == "step":
                return of(acts, l0)
            assert config.tanh_scale is not None
            assert config.pre_act_coefficient is not None
            gap = (theta - pre)[:, dead].relu().sum()
            count = (config.tanh_scale * acts).tanh().sum()
            return of(acts, (count + config.pre_act_coefficient * gap) / size)


def _auxk(pre: Tensor, W_dec: Tensor, residual: Tensor, dead: list[int]) -> Tensor:
    """Return the share of the residual's variance that dead latents leave.

    Gao et al. (2024), appendix A.2.
    """
    size, d_in = residual.shape
    residual = residual.detach()
    pre = pre[:, dead]
    floor = pre.topk(min(d_in // 2, len(dead)), dim=1).values[:, -1:]
    estimate = (pre.relu() * (pre >= floor)) @ W_dec[dead]
    variance = (residual - residual.mean(0)).square().sum() / size
    return (residual - estimate).square().sum() / size / variance


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
            p = config.p
            if config.p_end is not None:
                p += (config.p_end - p) * _LAST_ROUND
            return acts[acts > 0].pow(p).sum()
