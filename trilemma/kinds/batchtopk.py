"""BatchTopK SAEs, and Matryoshka SAEs that nest them.

Bussmann et al. (2024), "BatchTopK sparse autoencoders": the k x batch largest pairs of
a batch are kept; at inference one threshold takes their place, a running mean of the
smallest activation kept. Bussmann et al. (2025), "Learning multi-level features with
Matryoshka SAEs": the latents below each of several widths have to reconstruct alone; we
take the mean of their errors, so that the number of widths does not change its size.
"""

import functools

import torch
from torch import Tensor

from trilemma import averaging, codes, ranks
from trilemma.codes import Code, Support
from trilemma.config.saes import BatchTopK, Matryoshka
from trilemma.kinds import kind, latents, topk
from trilemma.kinds.kind import Averages, Batch, Exported, Forward, Kind, Weights


def make(config: BatchTopK | Matryoshka) -> Kind:
    """Return the kind; its one average is the threshold of inference."""
    return Kind(
        forward=functools.partial(_forward, config),
        export=functools.partial(_export, config),
        kept_square=topk.kept_square(config),
        starts_as_rows=True,
        auxk_coefficient=config.auxk_coefficient,
        lr_factors={"W_dec": kind.DECODER_LR_FACTOR},
        resampled_norm=topk.RESAMPLED_NORM,
        averages={"cut": torch.zeros((), dtype=torch.float64)},
        averaged=functools.partial(_averaged, config.threshold_decay),
    )


def _forward(config: BatchTopK | Matryoshka, weights: Weights, batch: Batch) -> Forward:
    known = latents.pre_acts(batch, weights)
    pairs = _pairs(known, topk.k_at(config, batch.step, batch.num_steps), batch)
    found = latents.at(pairs, batch, weights, known)
    acts = torch.relu(found.values)
    if isinstance(config, BatchTopK):
        x_hat = found.decode(acts, weights)
        error = batch.error(x_hat)
    else:
        nested = codes.decode_nested(
            acts, weights["W_dec"], support=pairs, widths=config.widths
        )
        x_hats = nested + weights["b_dec"]
        x_hat = x_hats[-1]
        error = torch.stack([batch.error(each) for each in x_hats]).mean()
    return Forward(x_hat, error, None, Code(acts, pairs))


def _pairs(known: Tensor, k: int, batch: Batch) -> Support:
    if not batch.num_elsewhere:
        return codes.batchtopk(known, k)
    num = k * batch.num_rows
    return codes.where(ranks.largest_in_all(known, k, num=num, ranks=batch.ranks))


def _averaged(decay: float, batch: Batch, forward: Forward) -> Averages:
    acts = forward.code.acts.detach()
    smallest = torch.where(acts > 0, acts, torch.inf).min().double()
    smallest = batch.ranks.least(smallest)
    decay = averaging.decay_at(decay, batch.step)
    cut = batch.averages["cut"]
    average = decay * cut + (1 - decay) * smallest
    return {"cut": torch.where(smallest.isfinite(), average, cut)}


def _export(
    config: BatchTopK | Matryoshka, weights: Weights, averages: Averages, scale: float
) -> Exported:
    if config.inference == "matching_pursuit":
        return topk.pursued(config, weights, scale)
    cut = float(averages["cut"]) / scale
    threshold = torch.full_like(weights["b_enc"], cut)
    tensors = kind.unscaled(weights, scale) | {"threshold": threshold}
    return Exported("jumprelu", tensors, None)
