"""JumpReLU SAEs: each latent has a threshold of its own, learned.

Penalties: L0 with a straight-through gradient (Rajamanoharan et al., 2024, "Jumping
ahead", section 3); the squared distance of L0 from a target (same authors' appendix on
target sparsity, as dictionary_learning has it), weighed against fvu; a tanh count with
a pull on silent latents (Conerly et al., Anthropic, January 2025, "Dictionary learning
optimization techniques").
"""

import functools
import math

import torch
from torch import Tensor

from trilemma import activation_functions, losses
from trilemma.codes import Code
from trilemma.config.saes import JumpReLU
from trilemma.kinds import kind, latents
from trilemma.kinds.kind import Averages, Batch, Exported, Forward, Kind, Weights
from trilemma.kinds.latents import Latents

# Thresholds, kept as logarithms, may have to grow tenfold while the weights settle; at
# their learning rate that would take longer than a short run has steps.
_THRESHOLD_LR_FACTOR = 20.0


def make(config: JumpReLU) -> Kind:
    """Return the kind; thresholds are kept as logarithms."""
    start = torch.full((config.d_sae,), math.log(config.threshold_init))
    return Kind(
        forward=functools.partial(_forward, config),
        export=_export,
        penalty_of=functools.partial(_from_target, config.target_l0),
        coefficient=config.l0_coefficient,
        warmup_fraction=config.sparsity_warmup_fraction,
        added_weights={"log_threshold": start},
        lr_factors={
            "log_threshold": _THRESHOLD_LR_FACTOR,
            "W_dec": kind.DECODER_LR_FACTOR,
        },
    )


def of(config: JumpReLU, found: Latents, weights: Weights, batch: Batch) -> Forward:
    """Return what becomes of a batch's latents, or of those near their thresholds."""
    # Always float32: bfloat16 would lose the small steps of a threshold.
    thresholds = weights["log_threshold"].exp()
    threshold, size = found.spread(thresholds), len(batch.x)
    acts = activation_functions.jumprelu_ste(
        found.values, threshold, bandwidth=config.bandwidth
    )
    x_hat = found.decode(acts, weights)
    if config.penalty == "tanh":
        assert config.tanh_scale is not None
        penalty = losses.tanh(acts, config.tanh_scale, batch=size)
        penalty = penalty + _pull(config, thresholds, weights, batch)
    else:
        penalty = losses.l0(
            found.values, threshold, bandwidth=config.bandwidth, batch=size
        )
    return Forward(x_hat, batch.error(x_hat), penalty, Code(acts, found.pairs))


def _forward(config: JumpReLU, weights: Weights, batch: Batch) -> Forward:
    known = latents.pre_acts(batch, weights)
    # Pairs just below their threshold move it too.
    floor = weights["log_threshold"].detach().exp() - config.bandwidth / 2
    found = latents.above(floor, batch, weights, known)
    return of(config, found, weights, batch)


def _from_target(target_l0: float | None, l0: Tensor, d_in: int) -> Tensor:
    """Return the penalty: the squared relative distance from a target, if there is one.

    The loss divides by d_in, as suits a count: one latent more takes about that share
    of the error. A ratio has no such size, and divided by d_in it would leave L0 at
    several times its target.
    """
    return l0 if target_l0 is None else (l0 / target_l0 - 1).square() * d_in


def _pull(
    config: JumpReLU, thresholds: Tensor, weights: Weights, batch: Batch
) -> Tensor:
    """Return how far dead latents are below their thresholds, weighed."""
    assert config.pre_act_coefficient is not None
    dead = batch.dead
    pre_acts = torch.addmm(
        weights["b_enc"].index_select(0, dead),
        batch.x - batch.center_of(weights),
        weights["W_enc"].index_select(1, dead),
    )
    gap = torch.relu(thresholds.index_select(0, dead) - pre_acts)
    return config.pre_act_coefficient * losses.l1(gap, batch=len(batch.x))


def _export(weights: Weights, averages: Averages, scale: float) -> Exported:
    threshold = weights["log_threshold"].exp() / scale
    tensors = kind.unscaled(weights, scale) | {"threshold": threshold}
    return Exported("jumprelu", tensors, None)
