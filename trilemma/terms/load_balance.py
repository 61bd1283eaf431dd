"""Load balance: latents that fire more often than others cost something.

Tilde Research, "The rate distortion dance of sparse autoencoders", suggests it by
analogy with mixtures of experts and gives no formula. The squared form is ours; the
other is that of Fedus et al. (2021), "Switch Transformers", eq. 4, with latents for
experts. Both take it for granted that no latent should be more frequent than another,
which heavy-tailed data may contradict.

How often a latent fires has no gradient. Ours is that of a soft gate in its place,
g = z / (z + m) for the activation z, with m the mean of those above zero in the batch
(a constant): it is 0 for a silent latent and a half at the mean, and moves those most
that are near to falling silent.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from trilemma.kinds.kind import Batch, Forward, Weights
from trilemma.terms import columns


def value(
    form: Literal["squared", "switch"],
    weights: Weights,
    batch: Batch,
    forward: Forward,
) -> Float[Tensor, ""]:
    """Return the imbalance of a batch.

    squared: the mean over latents of (f_j / mean f - 1)^2, f_j the density of latent
    j, with the gate's gradient (straight through). 0 if all are equal.
    switch: d_sae * sum over latents of f_j P_j, f_j its share of all firings and P_j
    its share of all gates, which alone has a gradient. 1 if all are equal.
    """
    code, d_sae, total = forward.code, len(weights["b_enc"]), batch.ranks.total
    acts = code.acts.float()
    on = (acts > 0).float()
    mean = total(acts.detach().sum()) / total(on.sum()).clamp_min(1)
    gates = acts / (acts + _or_one(mean))
    if form == "switch":
        share = _shares(total(columns.sums(on, code, d_sae)))
        return d_sae * (share * _shares(total(columns.sums(gates, code, d_sae)))).sum()
    fired = total(columns.sums(on + (gates - gates.detach()), code, d_sae))
    return (d_sae * _shares(fired) - 1).square().mean()


def _shares(counts: Float[Tensor, "d_sae"]) -> Float[Tensor, "d_sae"]:
    return counts / _or_one(counts.sum())


def _or_one(divisor: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return a divisor, or 1 where nothing fires: a tiny one has huge gradients."""
    return torch.where(divisor > 0, divisor, 1.0)
