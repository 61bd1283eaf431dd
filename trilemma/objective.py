"""What each kind of SAE starts from, selects and minimises, in scaled activations."""

import hashlib
import math
from statistics import NormalDist
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from trilemma import activation_functions, codes, losses
from trilemma.codes import Support
from trilemma.config.saes import BatchTopK, JumpReLU, ReLU, SAEConfig, TopK

Weights = dict[str, Tensor]
"""W_enc, b_enc, W_dec, b_dec and, for JumpReLU, log_threshold."""


class Terms(NamedTuple):
    """The loss of a batch and what is logged of it."""

    loss: Float[Tensor, ""]
    """What is minimised."""
    fvu: Float[Tensor, ""]
    """Squared error over the variance of all training activations."""
    is_on: Bool[Tensor, "num"]
    """Which pairs of the support have an activation above zero."""


def initial_weights(
    config: SAEConfig, *, d_in: int, b_dec: Float[Tensor, "d_in"]
) -> Weights:
    """Return the weights before the first step, from the config's seed alone.

    Decoder rows are random unit vectors, the encoder their transpose, scaled so that
    the first reconstructions are about as large as the activations.
    """
    digest = hashlib.sha256(f"{config.seed}/sae".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    rows = torch.randn(config.d_sae, d_in, generator=generator)
    W_dec = functional.normalize(rows, dim=1)
    weights = {
        "W_enc": _encoder_scale(config, d_in) * W_dec.t().contiguous(),
        "b_enc": torch.zeros(config.d_sae),
        "W_dec": W_dec,
        "b_dec": b_dec,
    }
    if isinstance(config, JumpReLU):
        log_threshold = math.log(config.threshold_init)
        weights["log_threshold"] = torch.full((config.d_sae,), log_threshold)
    return weights


def is_trained(config: SAEConfig, name: str) -> bool:
    """Return whether a weight changes in training."""
    is_frozen = isinstance(config, TopK) and config.freeze_decoder
    return not (is_frozen and name == "W_dec")


def support(
    config: SAEConfig, weights: Weights, pre_acts: Float[Tensor, "batch d_sae"]
) -> Support:
    """Return the pairs of a batch that can have an activation or a gradient."""
    match config:
        case TopK(k=k):
            return codes.topk(pre_acts, k)
        case BatchTopK(k=k):
            return codes.batchtopk(pre_acts, k)
        case JumpReLU(bandwidth=bandwidth):
            # Pairs just below their threshold move it too.
            floor = weights["log_threshold"].exp() - bandwidth / 2
            return codes.above(pre_acts, floor)
        case ReLU():
            return codes.above(pre_acts, torch.zeros_like(pre_acts[0]))


def sparsity_coefficient(config: SAEConfig, *, step: int, num_steps: int) -> float:
    """Return the weight of the L1 or L0 penalty at a step counted from 0; else 0."""
    match config:
        case ReLU(l1_coefficient=peak) | JumpReLU(l0_coefficient=peak):
            warmup = config.sparsity_warmup_fraction * num_steps
            return peak * min(1.0, (step + 1) / warmup) if warmup > 0 else peak
        case TopK() | BatchTopK():
            return 0.0


def terms(
    config: SAEConfig,
    weights: Weights,
    *,
    x: Float[Tensor, "batch d_in"],
    pre_acts: Float[Tensor, "batch d_sae"],
    pairs: Support,
    variance: float,
    coefficient: float,
    dead: Tensor,
) -> Terms:
    """Return the loss of a batch, given its pre-activations and their support.

    The loss is fvu + coefficient * penalty / d_in + auxk_coefficient * auxk, where the
    penalty is the mean L1 or L0 of a row. `variance` is E||x - E x||^2, `dead` the
    latents that AuxK revives.
    """
    batch, d_in = x.shape
    selected = codes.selected_pre_acts(
        x,
        weights["W_enc"],
        weights["b_enc"],
        weights["b_dec"],
        pre_acts=pre_acts,
        support=pairs,
    )
    acts, penalty = _acts(config, weights, selected, pairs, batch)
    x_hat = codes.decode(acts, weights["W_dec"], support=pairs) + weights["b_dec"]
    fvu = losses.mse(x, x_hat) / variance
    loss = fvu
    if penalty is not None:
        loss = loss + coefficient / d_in * penalty
    if isinstance(config, TopK | BatchTopK) and len(dead) > 0:
        loss = loss + config.auxk_coefficient * losses.auxk(
            x - x_hat,
            x,
            W_enc=weights["W_enc"].index_select(1, dead),
            b_enc=weights["b_enc"].index_select(0, dead),
            W_dec=weights["W_dec"].index_select(0, dead),
            b_dec=weights["b_dec"],
            k=min(d_in // 2, len(dead)),
        )
    return Terms(loss, fvu.detach(), acts.detach() > 0)


def _encoder_scale(config: SAEConfig, d_in: int) -> float:
    """Return the scale of the encoder with the least first error.

    With random unit rows and isotropic activations, E||x||^2 = d_in, pre-activations
    are standard normal; let S be the sum of squares of those that are kept. At scale c
    the reconstruction has the inner product c S with x and the squared norm
    c^2 (S^2 / d_in + S), so that c = d_in / (d_in + S) is best. For a wide SAE that
    keeps half its latents at first c = 1 gives many times x, and a short run spends
    most of its steps on getting rid of that.
    """
    share = 0.5
    if isinstance(config, TopK | BatchTopK):
        share = min(config.k / config.d_sae, 0.5)
    normal = NormalDist()
    cut = normal.inv_cdf(1 - share)
    kept = config.d_sae * (share + cut * normal.pdf(cut))
    return d_in / (d_in + kept)


class _Acts(NamedTuple):
    values: Tensor
    penalty: Tensor | None


def _acts(
    config: SAEConfig, weights: Weights, selected: Tensor, pairs: Support, batch: int
) -> _Acts:
    if isinstance(config, JumpReLU):
        threshold = weights["log_threshold"].exp().index_select(0, pairs.columns)
        width = config.bandwidth
        values = activation_functions.jumprelu_ste(selected, threshold, bandwidth=width)
        return _Acts(
            values, losses.l0(selected, threshold, bandwidth=width, batch=batch)
        )
    values = torch.relu(selected)
    if isinstance(config, ReLU):
        return _Acts(values, losses.l1(values, batch=batch))
    return _Acts(values, None)
