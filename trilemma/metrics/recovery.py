"""Which known features a dictionary has: by the cosines of its rows with them."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from scipy import optimize
from torch import Tensor
from torch.nn import functional

RECALL_COSINE = 0.9
"""Absolute cosine with some row from which on a feature counts as recalled."""
NULL_DRAWS = 20
_DIGITS = 6


class Recovery(NamedTuple):
    """What the rows of a dictionary say of the features, each in [0, 1]."""

    mcc: float
    """Mean absolute cosine under the best matching, of as many as the fewer are."""
    uniqueness: float
    """Share of the rows whose nearest feature no earlier row has."""
    gt_recall: float
    """Share of the features that some row points along."""


def cosines(
    directions: Float[Tensor, "d_sae d_in"],
    features: Float[Tensor, "num_features d_in"],
) -> Float64[Tensor, "d_sae num_features"]:
    """Return the cosine of each direction with each feature; 0 for a zero row."""
    unit = functional.normalize(directions.detach().cpu().double(), dim=1)
    return unit @ functional.normalize(features.detach().cpu().double(), dim=1).t()


def matched(
    cosine: Float64[Tensor, "d_sae num_features"],
) -> Int64[Tensor, " num_features"]:
    """Return the latent of each feature, none twice; -1 where there are too few.

    The matching has the largest sum of absolute cosines (the Hungarian method), these
    to six digits: what is equal but for rounding is matched alike, whatever the scale
    of rows.
    """
    size = cosine.abs().numpy().round(_DIGITS)
    latent, feature = optimize.linear_sum_assignment(-size)
    found = torch.full((cosine.shape[1],), -1, dtype=torch.int64)
    found[torch.from_numpy(feature)] = torch.from_numpy(latent)
    return found


def recovery(cosine: Float64[Tensor, "d_sae num_features"]) -> Recovery:
    """Return how well at least one row recovers the features.

    `mcc` and `uniqueness` follow SynthSAEBench (arXiv 2602.14687); the threshold of
    `gt_recall` is proposed here. `mcc` cannot see that half a dictionary is missing,
    and recall not that each latent is there twice.
    """
    size = cosine.abs()
    latent = matched(cosine)
    feature = (latent >= 0).nonzero()[:, 0]
    return Recovery(
        mcc=float(size[latent[feature], feature].mean()),
        uniqueness=len(set(size.argmax(1).tolist())) / len(size),
        gt_recall=float((size.amax(0) >= RECALL_COSINE).double().mean()),
    )


def null_mcc(
    num_latents: int, features: Float[Tensor, "num_features d_in"], *, seed: int
) -> Float64[np.ndarray, " draw"]:
    """Return the `mcc` of dictionaries of random directions of the same shape."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_latents, features.shape[1])
    found = []
    for _ in range(NULL_DRAWS):
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        found.append(recovery(cosines(drawn, features)).mcc)
    return np.array(found)


def hedging(
    cosine: Float64[Tensor, "d_sae num_features"],
    features: Float[Tensor, "num_features d_in"],
    pairs: Int64[Tensor, "pair 2"],
) -> float | None:
    """Return how far latents lean towards what is tied to their features.

    For a pair (i, j) that is the cosine of feature i's latent with feature j, beyond
    that of the features themselves, mean over the pairs whose first feature has a
    latent; None where there are none (after Chanin et al. 2025, Feature hedging, arXiv
    2505.11756; the formula is proposed here). A row may stand for -v_i as well.
    """
    latent = matched(cosine)
    first, second = pairs[latent[pairs[:, 0]] >= 0].t()
    if len(first) == 0:
        return None
    sign = cosine[latent[first], first].sign()
    leaning = sign * cosine[latent[first], second]
    return float((leaning - cosines(features, features)[first, second]).mean())
