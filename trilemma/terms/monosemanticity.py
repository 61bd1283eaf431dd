"""MonoLoss: a latent that fires on activations unlike each other costs something.

"MonoLoss" (arXiv 2602.12403), after the monosemanticity score of Pach et al. (2025,
arXiv 2504.02821): the mean cosine of two rows of the batch, weighed by the product of a
latent's activations on them, each scaled to [0, 1]. As in the paper, what is compared
are the rows of the batch itself.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from trilemma.kinds.kind import Batch, Forward, Weights
from trilemma.terms import columns

# Weight that the pairs of rows of a latent must have for its score to count.
_LEAST_WEIGHT = 1e-8
_TINY = 1e-12


def value(weights: Weights, batch: Batch, forward: Forward) -> Float[Tensor, ""]:
    """Return 1 less the mean score of the latents that fire on two rows or more.

    With a_n the scaled activation on row n and e_n that row at unit norm, w = sum a_n
    e_n, u = sum a_n and v = sum a_n^2, the score is (||w||^2 - v) / (u^2 - v): no pair
    is formed. The extremes that scale activations are taken for constants.
    """
    code, d_sae, ranks = forward.code, len(weights["b_enc"]), batch.ranks
    smallest, largest = columns.extremes(code, d_sae, batch=len(batch.x))
    smallest, largest = ranks.least(smallest), -ranks.least(-largest)
    span = (largest - smallest).clamp_min(_TINY)
    acts = code.acts.float() - columns.spread(smallest, code)
    scaled = acts / columns.spread(span, code)
    rows = functional.normalize(batch.x, dim=1)
    sums = ranks.total(columns.weighted_sums(scaled, rows, code))
    u = ranks.total(columns.sums(scaled, code, d_sae))
    v = ranks.total(columns.sums(scaled.square(), code, d_sae))
    weight = u.square() - v
    is_scored = weight > _LEAST_WEIGHT
    scores = (sums.square().sum(1) - v) / torch.where(is_scored, weight, 1.0)
    costs = torch.where(is_scored, 1 - scores, 0.0)
    return costs.sum() / is_scored.sum().clamp_min(1)
