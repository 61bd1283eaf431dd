"""ReLU SAEs under a penalty on activations: L1, decoder-weighted L1, Lp, log."""

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from trilemma import joint_hook, losses
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
            norms = found.spread(_norms(weights["W_dec"], batch.widths))
            penalty = losses.l1(acts * norms, batch=size)
        case "log":
            assert config.log_scale is not None
            penalty = losses.log(acts, config.log_scale, batch=size)
        case "lp":
            penalty = annealing.penalty(config, acts, batch)
    return Forward(x_hat, batch.error(x_hat), penalty, Code(acts, found.pairs))


def _norms(
    W_dec: Float[Tensor, "d_sae d_in"], widths: Sequence[int]
) -> Float[Tensor, "d_sae"]:
    """Return the norm of each decoder row; of a crosscoder the sum over its hooks.

    Lindsey et al. (Anthropic, October 2024), "Sparse Crosscoders for Cross-Layer
    Features and Model Diffing": sum over l of ||W_dec,i^l||. So a latent of several
    hooks pays for each of them.
    """
    if not widths:
        norms: Tensor = W_dec.norm(dim=1)
        return norms
    return joint_hook.decoder_norms(W_dec, widths).sum(dim=1)


def _forward(config: ReLU, weights: Weights, batch: Batch) -> Forward:
    return of(config, positive(weights, batch), weights, batch)
