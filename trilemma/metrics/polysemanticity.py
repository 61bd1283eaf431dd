"""Polysemanticity: how many concepts share a latent, by labels or by known features."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64, Real
from scipy import optimize
from torch import Tensor

from trilemma.metrics import intervals

METRIC_VERSION = 1


class Sharing(NamedTuple):
    """How labels share each latent, beside chance, and the means over latents."""

    n_eff: Float64[np.ndarray, " d_sae"]
    """Effective number of labels of each latent; NaN where it is silent."""
    n_eff_null: Float64[np.ndarray, " d_sae"]
    """The same with labels permuted over rows, mean of the permutations."""
    purity: Float64[np.ndarray, " d_sae"]
    """Largest share that a label has of the latent's mass; NaN where it is silent."""
    purity_null: Float64[np.ndarray, " d_sae"]
    mean_n_eff: intervals.Interval
    """Firing-weighted mean of `n_eff`."""
    mean_n_eff_null: intervals.Interval
    mean_ratio: intervals.Interval
    """Firing-weighted mean of `n_eff / n_eff_null`; 1 is as mixed as chance."""
    geometric_n_eff: intervals.Interval
    """Geometric mean of `n_eff`, weighted by what latents add to reconstructions."""
    mean_purity: intervals.Interval
    """Mean of `purity` with the same weights."""
    mean_purity_null: intervals.Interval
    mean_ratio_out: Float64[np.ndarray, " block"]
    """The same without each block of documents in turn."""


class Matches(NamedTuple):
    """How the directions of a dictionary lie among the known features."""

    participation: Float64[np.ndarray, " d_sae"]
    """Effective number of features in each direction; 1 is monosemantic. NaN where it
    has no length, or none along any feature."""
    best_feature: Float64[np.ndarray, " d_sae"]
    """Feature of the largest absolute cosine with each direction; NaN as above."""
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


def purity(
    mass: Float64[np.ndarray, "*latents label"],
) -> Float64[np.ndarray, "*latents"]:
    """Return the largest share that a label has of the mass; NaN where there is none.

    k labels of equal mass give 1 / k.
    """
    total = mass.sum(-1)
    return np.where(total > 0, mass.max(-1) / np.where(total > 0, total, 1), np.nan)


def sharing(
    *,
    mass: Float64[np.ndarray, "block d_sae label"],
    null_mass: Float64[np.ndarray, "permutation d_sae label"],
    num_fired: Int64[np.ndarray, "block d_sae"],
    norms: Float64[np.ndarray, " d_sae"],
) -> Sharing:
    """Return how labels share each latent, and the means over latents.

    `mass` is the activation mass in each block of documents, and the intervals delete
    one block at a time. They hold the null fixed, since it depends on a block only
    through the number of firings. `norms` are those of the decoder's rows: mass times
    norm is what a latent adds to reconstructions, whatever its scale.
    """
    total, fired = mass.sum(0), num_fired.sum(0)
    n_eff, pure = effective_number(total), purity(total)
    null, pure_null = (of(null_mass).mean(0) for of in (effective_number, purity))
    is_left = fired - num_fired > 0
    # A block that holds all firings of a latent leaves only rounding of its mass.
    n_eff_out, pure_out, mass_out = (
        np.where(is_left, np.stack([of(total - block) for block in mass]), silent)
        for of, silent in ((effective_number, np.nan), (purity, np.nan), (_sum, 0.0))
    )
    by_firing = (fired, fired - num_fired)
    by_mass = (_sum(total) * norms, mass_out * norms)
    ratio_out = n_eff_out / null
    entropy = weighted_mean(np.log(n_eff), by_mass[0], np.log(n_eff_out), by_mass[1])
    return Sharing(
        n_eff=n_eff,
        n_eff_null=null,
        purity=pure,
        purity_null=pure_null,
        mean_n_eff=weighted_mean(n_eff, by_firing[0], n_eff_out, by_firing[1]),
        mean_n_eff_null=weighted_mean(null, fired),
        mean_ratio=weighted_mean(n_eff / null, by_firing[0], ratio_out, by_firing[1]),
        mean_ratio_out=np.array(
            [
                np.nan if (mean := _mean(*pair)) is None else mean
                for pair in zip(ratio_out, by_firing[1], strict=True)
            ]
        ),
        geometric_n_eff=intervals.Interval(
            *(None if end is None else math.exp(end) for end in entropy)
        ),
        mean_purity=weighted_mean(pure, by_mass[0], pure_out, by_mass[1]),
        mean_purity_null=weighted_mean(pure_null, by_mass[0]),
    )


def weighted_mean(
    value: Float64[np.ndarray, " d_sae"],
    weight: Real[np.ndarray, " d_sae"],
    value_out: Float64[np.ndarray, "block d_sae"] | None = None,
    weight_out: Real[np.ndarray, "block d_sae"] | None = None,
) -> intervals.Interval:
    """Return the mean over latents whose value is defined, with a jackknife interval.

    `value_out[b]` and `weight_out[b]` are without block b; without them there is no
    interval.
    """
    whole = _mean(value, weight)
    if whole is None:
        return intervals.UNDEFINED
    if value_out is None or weight_out is None:
        return intervals.Interval(whole, None, None)
    total = float(weight.sum())
    changed = (weight_out.sum(1) > 0) & (weight_out.sum(1) < total)
    pairs = zip(value_out[changed], weight_out[changed], strict=True)
    left_out = [_mean(*pair) for pair in pairs]
    return intervals.jackknife(whole, np.array([x for x in left_out if x is not None]))


def _mean(
    value: Float64[np.ndarray, " d_sae"], weight: Real[np.ndarray, " d_sae"]
) -> float | None:
    weight = np.where(np.isnan(value), 0, weight)
    total = float(weight.sum())
    return float(np.nansum(value * weight)) / total if total > 0 else None


def _sum(
    mass: Float64[np.ndarray, "*latents label"],
) -> Float64[np.ndarray, "*latents"]:
    total: Float64[np.ndarray, "*latents"] = mass.sum(-1)
    return total


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
        participation=1 / np.where(squares > 0, squares, np.nan),
        best_feature=np.where(squares > 0, cosine.argmax(1), np.nan),
        cosine=cosine,
    )
