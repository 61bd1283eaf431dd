"""Forward passes that can be batched over SAEs: whole matrices, no choice by data.

They give what `Kind.forward` gives, to rounding, and go through `torch.func.vmap`.
Which of equal entries TopK kinds keep is torch's choice. There is none for kinds of
several sums (matryoshka, gated, group), of latents that follow others (tree), or of
lists of dead latents (JumpReLU's tanh form).
"""

import functools
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trilemma import losses
from trilemma.codes import Code
from trilemma.config.saes import BatchTopK, JumpReLU, ReLU, SAEConfig, TopK
from trilemma.kinds import jumprelu, relu, topk
from trilemma.kinds.kind import Batch, Forward, Weights
from trilemma.kinds.latents import Latents


def forward_of(config: SAEConfig) -> Callable[[Weights, Batch], Forward] | None:
    """Return the forward pass of a config's kind; None where there is none here."""
    if config.terms is not None:
        return None
    match config:
        case ReLU():
            return functools.partial(_relu, config)
        case JumpReLU(penalty="step"):
            return functools.partial(_jumprelu, config)
        case TopK() | BatchTopK():
            return functools.partial(_topk, config)
        case _:
            return None


def auxk(
    residual: Float[Tensor, "batch d_out"],
    batch: Batch,
    weights: Weights,
    *,
    is_dead: Bool[Tensor, "d_sae"],
) -> Float[Tensor, ""]:
    """Return `losses.auxk` of the latents that are dead; 0 where none is."""
    residual = residual.detach()
    pre_acts = _pre_acts(weights, batch)
    # Where fewer are dead than are asked for, the rest has no activation.
    among = torch.where(is_dead, pre_acts.detach(), -torch.inf)
    k = min(residual.shape[1] // 2, len(is_dead))
    acts = torch.relu(pre_acts) * _largest_in_rows(among, k) * is_dead
    estimate = (acts @ weights["W_dec"]).float()
    variance = (residual - residual.mean(0)).square().sum() / len(residual)
    divisor = torch.where(variance > 0, variance, torch.inf)
    return losses.mse(residual, estimate) / divisor * is_dead.any()


def _relu(config: ReLU, weights: Weights, batch: Batch) -> Forward:
    return relu.of(config, _all(weights, batch), weights, batch)


def _jumprelu(config: JumpReLU, weights: Weights, batch: Batch) -> Forward:
    return jumprelu.of(config, _all(weights, batch), weights, batch)


def _topk(config: TopK | BatchTopK, weights: Weights, batch: Batch) -> Forward:
    found = _all(weights, batch)
    k = topk.k_at(config, batch.step, batch.num_steps)
    known = found.values.detach()
    if isinstance(config, TopK):
        is_kept = _largest_in_rows(known, k)
    else:
        row = known.flatten()[None]
        is_kept = _largest_in_rows(row, k * len(batch.x)).view_as(known)
    acts = torch.relu(found.values) * is_kept
    x_hat = found.decode(acts, weights)
    return Forward(x_hat, batch.error(x_hat), None, Code(acts, None))


def _all(weights: Weights, batch: Batch) -> Latents:
    return Latents(_pre_acts(weights, batch), None)


def _pre_acts(weights: Weights, batch: Batch) -> Tensor:
    centred = batch.x - batch.center_of(weights)
    return torch.addmm(weights["b_enc"], centred, weights["W_enc"])


def _largest_in_rows(values: Tensor, k: int) -> Tensor:
    columns = values.topk(k, dim=1, sorted=False).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter(1, columns, True)
