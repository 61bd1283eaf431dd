"""ReLU SAEs under a penalty on activations: L1, decoder-weighted L1, Lp, log."""

import functools

import torch

from trilemma import losses
from trilemma.codes import Code
from trilemma.config.saes import ReLU
from trilemma.kinds import annealing, kind, latents
from trilemma.kinds.kind import Averages, Batch, Exported, Forward, Kind, Weights
from trilemma.kinds.latents import Latents


def make(config: ReLU) -> Kind:
    """Return the kind; with p annealing it has averages."""
    is_annealed = config.p_end is not None
    return Kind(
        forward=functools.partial(_forward, config),
        export=export,
        # A penalty that weighs activations with their rows leaves the rows free.
        has_unit_decoder=config.penalty != "l1_decoder_norm",
        coefficient=config.l1_coefficient,
        warmup_fraction=config.sparsity_warmup_fraction,
        **annealing.averages(config) if is_annealed else {},
    )


def export(weights: Weights, averages: Averages, scale: float) -> Exported:
    """Return a ReLU SAE."""
    return Exported("relu", kind.unscaled(weights, scale), None)


def positive(weights: Weights, batch: Batch) -> Latents:
    """Return the pairs with a positive pre-activation, or all pairs."""
    known = latents.pre_acts(batch, weights)
    return latents.above(known.new_zeros(1), batch, weights, known)


def of(config: ReLU, found: Latents, weights: Weights, batch: Batch) -> Forward:
    """Return what becomes of a batch's latents."""
    acts = torch.relu(found.values)
    x_hat = found.decode(acts, weights)
    size = len(batch.x)
    match config.penalty:
        case "l1":
            penalty = losses.l1(acts, batch=size)
        case "l1_decoder_norm":
            norms = found.spread(weights["W_dec"].norm(dim=1))
            penalty = losses.l1(acts * norms, batch=size)
        case "log":
            assert config.log_scale is not None
            penalty = losses.log(acts, config.log_scale, batch=size)
        case "lp":
            penalty = annealing.penalty(config, acts, batch)
    return Forward(x_hat, batch.error(x_hat), penalty, Code(acts, found.pairs))


def _forward(config: ReLU, weights: Weights, batch: Batch) -> Forward:
    return of(config, positive(weights, batch), weights, batch)
