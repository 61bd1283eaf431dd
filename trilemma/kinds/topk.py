"""TopK SAEs: the k largest latents of each row (Gao et al., 2024, section 2.3)."""

import functools
from statistics import NormalDist

import torch

from trilemma import codes
from trilemma.codes import Code
from trilemma.config.saes import BatchTopK, Matryoshka, TopK
from trilemma.kinds import kind, latents
from trilemma.kinds.kind import Averages, Batch, Exported, Forward, Kind, Weights
from trilemma.matching_pursuit import Pursuit

# A resampled latent that is weaker than the others would never be among the largest.
RESAMPLED_NORM = 1.0

_NORMAL = NormalDist()


def make(config: TopK) -> Kind:
    """Return the kind."""
    return Kind(
        forward=functools.partial(_forward, config),
        export=functools.partial(_export, config),
        kept_square=kept_square(config),
        # A frozen decoder is there to show what random directions do.
        starts_as_rows=not config.freeze_decoder,
        auxk_coefficient=config.auxk_coefficient,
        lr_factors={"W_dec": kind.DECODER_LR_FACTOR},
        resampled_norm=RESAMPLED_NORM,
    )


def k_at(config: TopK | BatchTopK | Matryoshka, step: int, num_steps: int) -> int:
    """Return how many latents are kept at a step: k_start turns evenly into k."""
    if config.k_start is None or config.k_anneal_fraction is None:
        return config.k
    share = min(1.0, step / (config.k_anneal_fraction * num_steps))
    return round(config.k_start + (config.k - config.k_start) * share)


def kept_square(config: TopK | BatchTopK | Matryoshka) -> float:
    """Return the mean of the squares kept; see `Kind`.

    With the share p above the cut c that is p + c phi(c), phi the normal density.
    """
    share = min((config.k_start or config.k) / config.d_sae, 0.5)
    cut = _NORMAL.inv_cdf(1 - share)
    return share + cut * _NORMAL.pdf(cut)


def pursued(
    config: TopK | BatchTopK | Matryoshka, weights: Weights, scale: float
) -> Exported:
    """Return the SAE whose codes are found by k steps of matching pursuit."""
    tensors = kind.unscaled(weights, scale)
    del tensors["b_enc"]
    tensors["W_enc"] = tensors["W_dec"].t().contiguous()
    pursuit = Pursuit(config.k, residual_threshold=0.0, stops_at_repeat=False)
    return Exported("matching_pursuit", tensors, None, pursuit)


def _forward(config: TopK, weights: Weights, batch: Batch) -> Forward:
    known = latents.pre_acts(batch, weights)
    pairs = codes.topk(known, k_at(config, batch.step, batch.num_steps))
    found = latents.at(pairs, batch, weights, known)
    acts = torch.relu(found.values)
    x_hat = found.decode(acts, weights)
    return Forward(x_hat, batch.error(x_hat), None, Code(acts, pairs))


def _export(
    config: TopK, weights: Weights, averages: Averages, scale: float
) -> Exported:
    if config.inference == "matching_pursuit":
        return pursued(config, weights, scale)
    return Exported("topk", kind.unscaled(weights, scale), config.k)
