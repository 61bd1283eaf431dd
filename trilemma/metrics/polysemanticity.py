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
    block_sizes: Float64[np.ndarray, " block"]
    """How many firings each block has."""


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
    sizes = num_fired.sum(1).astype(np.float64)
    by_mass = _sum(total) * norms
    ratio_out, fired_out = n_eff_out / null, fired - num_fired

    def by_firing(
        value: Float64[np.ndarray, " d_sae"], out: Float64[np.ndarray, "block d_sae"]
    ) -> intervals.Interval:
        return weighted_mean(value, fired, Without(out, fired_out, sizes))

    def by_masses(
        value: Float64[np.ndarray, " d_sae"], out: Float64[np.ndarray, "block d_sae"]
    ) -> intervals.Interval:
        return weighted_mean(value, by_mass, Without(out, mass_out * norms, sizes))

    entropy = by_masses(np.log(n_eff), np.log(n_eff_out))
    return Sharing(
        n_eff=n_eff,
        n_eff_null=null,
        purity=pure,
        purity_null=pure_null,
        mean_n_eff=by_firing(n_eff, n_eff_out),
        mean_n_eff_null=weighted_mean(null, fired),
        mean_ratio=by_firing(n_eff / null, ratio_out),
        mean_ratio_out=_means(ratio_out, fired_out),
        block_sizes=sizes,
        geometric_n_eff=intervals.Interval(
            *(None if end is None else math.exp(end) for end in entropy)
        ),
        mean_purity=by_masses(pure, pure_out),
        mean_purity_null=weighted_mean(pure_null, by_mass),
    )


class Without(NamedTuple):
    """Values and weights of latents without each block of documents in turn."""

    value: Float64[np.ndarray, "block d_sae"]
    weight: Real[np.ndarray, "block d_sae"]
    sizes: Float64[np.ndarray, " block"]
    """How much of the sample each block is."""


def weighted_mean(
    value: Float64[np.ndarray, " d_sae"],
    weight: Real[np.ndarray, " d_sae"],
    without: Without | None = None,
) -> intervals.Interval:
    """Return the mean over latents whose value is defined, with a jackknife interval.

    Unless it is known what they are without each block, there is no interval.
    """
    whole = float(_means(value[None], weight[None])[0])
    if math.isnan(whole):
        return intervals.UNDEFINED
    if without is None:
        return intervals.Interval(whole, None, None)
    left_out = _means(without.value, without.weight)
    return intervals.jackknife(whole, left_out, without.sizes)


def _means(
    value: Float64[np.ndarray, "one d_sae"], weight: Real[np.ndarray, "one d_sae"]
) -> Float64[np.ndarray, " one"]:
    """Return the mean of each row's defined values; NaN where they weigh nothing."""
    weight = np.where(np.isnan(value), 0, weight)
    total = weight.sum(1)
    mean: Float64[np.ndarray, " one"] = np.nansum(value * weight, 1) / np.where(
        total > 0, total, np.nan
    )
    return mean


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
