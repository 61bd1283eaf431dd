"""Polysemanticity: how many concepts share a latent, by labels or by known features."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64
from scipy import optimize
from torch import Tensor

from trilemma.metrics import intervals

METRIC_VERSION = 1


class Sharing(NamedTuple):
    """How many labels share each latent, beside chance, and the mean over firings."""

    n_eff: Float64[np.ndarray, " d_sae"]
    """Effective number of labels of each latent; NaN where it is silent."""
    n_eff_null: Float64[np.ndarray, " d_sae"]
    """The same with labels permuted over rows, mean of the permutations."""
    mean_n_eff: intervals.Interval
    """Firing-weighted mean of `n_eff`."""
    mean_ratio: intervals.Interval
    """Firing-weighted mean of `n_eff / n_eff_null`; 1 is as mixed as chance."""


class Matches(NamedTuple):
    """How the directions of a dictionary lie among the known features."""

    participation: Float64[np.ndarray, " d_sae"]
    """Effective number of features in each direction; 1 is monosemantic."""
    best_feature: Int64[np.ndarray, " d_sae"]
    """Feature of the largest absolute cosine with each direction."""
    cosine: Float64[np.ndarray, "d_sae num_features"]
    """Absolute cosine of each direction with each feature."""


def effective_number(
    mass: Float64[np.ndarray, "*latents label"],
) -> Float64[np.ndarray, "*latents"]:
    """Return the exponential of the entropy of a mass over labels; NaN where none.

    k labels of equal mass give k. With s the shares of the mass, it is
    `exp(-sum s ln s)` (Hill 1973, Diversity and evenness, eq. 3 at order 1).
    """
    total = mass.sum(-1)
    safe = np.where(total > 0, total, 1.0)
    share = mass / safe[..., None]
    # ln of a share of zero is never used, for it is multiplied by that share.
    terms = share * np.log(np.where(share > 0, share, 1.0))
    return np.where(total > 0, np.exp(-terms.sum(-1)), np.nan)


def sharing(
    *,
    mass: Float64[np.ndarray, "block d_sae label"],
    null_mass: Float64[np.ndarray, "permutation d_sae label"],
    num_fired: Int64[np.ndarray, "block d_sae"],
) -> Sharing:
    """Return each latent's effective number of labels and the means over firings.

    `mass` is the activation mass in each block of documents, and the intervals delete
    one block at a time. They hold the null fixed, since it depends on a block only
    through the number of firings.
    """
    total, fired = mass.sum(0), num_fired.sum(0)
    n_eff = effective_number(total)
    null = effective_number(null_mass).mean(0)
    weight_out = fired - num_fired
    n_eff_out = np.stack([effective_number(total - block) for block in mass])
    # A block that holds all firings of a latent leaves only rounding of its mass.
    n_eff_out = np.where(weight_out > 0, n_eff_out, np.nan)
    return Sharing(
        n_eff=n_eff,
        n_eff_null=null,
        mean_n_eff=_mean_over_firings(n_eff, fired, n_eff_out, weight_out),
        mean_ratio=_mean_over_firings(
            n_eff / null, fired, n_eff_out / null, weight_out
        ),
    )


def matches(
    directions: Float[Tensor, "d_sae d_in"],
    features: Float[Tensor, "num_features d_in"],
) -> Matches:
    """Return how decoder directions are made of known unit features.

    `participation` is `1 / sum w^2` with w the normalised squares of the coefficients
    of a direction in the features. Where these are orthogonal, the coefficients are
    inner products; otherwise those of least squares in features of either sign, with
    as few features as an active set takes (Lawson and Hanson 1974, chapter 23).
    """
    V = features.detach().cpu().double().numpy()
    D = directions.detach().cpu().double().numpy()
    norms = np.linalg.norm(D, axis=1, keepdims=True)
    D = D / np.where(norms > 0, norms, 1.0)
    signed = np.concatenate([V, -V]).T
    solved = np.stack([optimize.nnls(signed, direction)[0] for direction in D])
    power = solved[:, : len(V)] ** 2 + solved[:, len(V) :] ** 2
    total = power.sum(1, keepdims=True)
    share = power / np.where(total > 0, total, 1.0)
    squares = (share**2).sum(1)
    cosine = np.abs(D @ V.T)
    return Matches(
        participation=np.where(squares > 0, 1 / np.where(squares > 0, squares, 1), 1.0),
        best_feature=cosine.argmax(1).astype(np.int64),
        cosine=cosine,
    )


def _mean_over_firings(
    value: Float64[np.ndarray, " d_sae"],
    weight: Int64[np.ndarray, " d_sae"],
    value_out: Float64[np.ndarray, "block d_sae"],
    weight_out: Int64[np.ndarray, "block d_sae"],
) -> intervals.Interval:
    if weight.sum() == 0:
        return intervals.UNDEFINED
    used = (weight_out.sum(1) > 0) & (weight_out.sum(1) < weight.sum())
    left_out = np.nansum(value_out * weight_out, axis=1)[used]
    left_out /= weight_out.sum(1)[used]
    whole = float(np.nansum(value * weight)) / float(weight.sum())
    return intervals.jackknife(whole, left_out)
