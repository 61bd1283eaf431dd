"""Gated SAEs: which latents fire is decided apart from how strongly.

Rajamanoharan et al. (2024), "Improving dictionary learning with gated SAEs", section
3.2: with pi = (x - b_dec) W_enc a latent is on where pi + b_gate > 0, and then has the
activation relu(exp(r_mag) pi + b_mag). L1 acts on relu(pi + b_gate), which has to
reconstruct too, by a decoder that this term does not train (eq. 8). In training
`b_enc` is b_gate.
"""

import torch

from trilemma import activation_functions, losses
from trilemma.codes import Code
from trilemma.config.saes import Gated
from trilemma.kinds import kind, relu
from trilemma.kinds.kind import Averages, Batch, Exported, Forward, Kind, Weights


def make(config: Gated) -> Kind:
    """Return the kind, whose magnitudes start equal to its gates."""
    return Kind(
        forward=_forward,
        export=_export,
        coefficient=config.l1_coefficient,
        warmup_fraction=config.sparsity_warmup_fraction,
        lr_factors={"W_dec": kind.DECODER_LR_FACTOR},
        added_weights={
            "r_mag": torch.zeros(config.d_sae),
            "b_mag": torch.zeros(config.d_sae),
        },
    )


def _forward(weights: Weights, batch: Batch) -> Forward:
    found = relu.positive(weights, batch)
    pi = found.values - found.spread(weights["b_enc"])
    acts = activation_functions.gated(
        pi,
        b_gate=found.spread(weights["b_enc"]),
        b_mag=found.spread(weights["b_mag"]),
        r_mag=found.spread(weights["r_mag"]),
    )
    x_hat = found.decode(acts, weights)
    gates = torch.relu(found.values)
    frozen = {name: weights[name].detach() for name in ("W_dec", "b_dec")}
    through_gates = found.decode(gates, frozen)
    # What a skip gives is not trained by this term either.
    frozen_target = batch._replace(y=batch.target.detach())
    error = batch.error(x_hat) + frozen_target.error(through_gates)
    penalty = losses.l1(gates, batch=len(batch.x))
    return Forward(x_hat, error, penalty, Code(acts, found.pairs))


def _export(weights: Weights, averages: Averages, scale: float) -> Exported:
    tensors = kind.unscaled(weights, scale)
    tensors["b_gate"] = tensors.pop("b_enc")
    tensors |= {"r_mag": weights["r_mag"], "b_mag": weights["b_mag"] / scale}
    return Exported("gated", tensors, None)
