"""From what is counted of known features to the scalars that are reported."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float64

from trilemma import toys
from trilemma.metrics import activated, disentanglement, intervals, recovery
from trilemma.metrics.intervals import NUM_BLOCKS
from trilemma.metrics.known_features import KnownFeatures, PairCounts, has_two_trees
from trilemma.metrics.scalar import Scalar

METRIC_VERSION = 1
_SILENT = "no latent fires"
_NO_THEORY = "features overlap, differ in magnitude or come with noise"
_JACKKNIFE = f"jackknife over {NUM_BLOCKS} document blocks"
_METHODS = {
    "f1_gap": "1 - best F1 of firing against a feature; firing-weighted mean",
    "mig_latent": "(I1 - I2) / H of a latent with features; firing-weighted mean",
    "mig": "(I1 - I2) / H of a feature with latents; mean over features",
    "disentanglement": "DCI by mutual information; mean over latents by it",
    "completeness": "DCI by mutual information; mean over features by it",
    "absorb_gt": "P(parent's latent silent, child's fires | both present), less the "
    "same with a child of another tree and none of the parent's own",
    "co_activation": "P(both latents fire | both of a tied pair present)",
}


def latent_facts(known: KnownFeatures) -> disentanglement.LatentFacts:
    """Return what known features say of each latent."""
    return disentanglement.latent_facts(known.total())


def cofiring(known: KnownFeatures) -> Float64[np.ndarray, " d_sae"]:
    """Return on how many features' rows each latent mostly fires."""
    return activated.cofiring(known.total())


def scalars(
    known: KnownFeatures, *, live: Bool[np.ndarray, " d_sae"], seed: int
) -> dict[str, Scalar]:
    """Return the numbers that known features give; `seed` is that of the null."""
    return _of_firings(known) | _of_pairs(known) | _of_directions(known, live, seed)


def in_theory(known: KnownFeatures, *, k: int) -> dict[str, Scalar]:
    """Return what the monosemantic control at a budget of k should come to."""
    found, num_rows = known.budgeted(k), int(known.total().rows)
    meanings = {
        "l0": ("latents/token", "E min(|S|, k)"),
        "mse": ("act^2", "E (|S| - k)_+"),
    }
    return {
        f"{name}_theory": Scalar(
            None if found is None else float(getattr(found, name)),
            None,
            None,
            n=num_rows,
            unit=unit,
            method=f"exact; {method} with S the features of a row, k = {k}",
            metric_version=METRIC_VERSION,
            seed=None,
            reason=_NO_THEORY if found is None else None,
        )
        for name, (unit, method) in meanings.items()
    }


def _of_firings(known: KnownFeatures) -> dict[str, Scalar]:
    whole = known.total()
    reason = "firings tell nothing of features" if whole.fired.any() else _SILENT
    without = [counts for counts in known.without_blocks() if counts.rows > 0]
    left_out = [disentanglement.means(counts) for counts in without]
    sizes = np.array([whole.rows - counts.rows for counts in without])
    return {
        name: _scalar(
            name,
            value,
            np.array([each[name] for each in left_out]),
            sizes,
            n=int(whole.rows),
            reason=reason,
        )
        for name, value in disentanglement.means(whole).items()
    }


def _of_pairs(known: KnownFeatures) -> dict[str, Scalar]:
    blocks = known.pair_counts()
    whole = PairCounts(*(part.sum() for part in blocks))
    left_out = PairCounts(*(part.sum() - part for part in blocks))
    untied = "no two tied features whose latents fire are present together"
    no_control = (
        "no parent whose latent fires is present without its children, beside another "
        "tree's child whose latent fires"
    )
    if len(known.tied) == 0:
        untied = "the toy ties no two features"
    elif not known.total().fired.any():
        untied = _SILENT
    if not has_two_trees(known.toy):
        no_control = "the toy has not two trees"

    def scalar(
        name: str,
        of: Callable[[PairCounts], Float64[np.ndarray, "*block"]],
        reason: str,
    ) -> Scalar:
        return _scalar(
            name,
            float(of(whole)),
            of(left_out),
            blocks.both,
            n=int(whole.both),
            reason=reason,
        )

    return {
        "absorb_gt": scalar(
            "absorb_gt", _absorption, no_control if whole.both > 0 else untied
        ),
        "co_activation": scalar("co_activation", _co_activation, untied),
    }


def _absorption(counts: PairCounts) -> Float64[np.ndarray, "*block"]:
    control = _ratio(counts.control_absorbed, counts.control)
    absorption: Float64[np.ndarray, "*block"]
    absorption = _ratio(counts.absorbed, counts.both) - control
    return absorption


def _co_activation(counts: PairCounts) -> Float64[np.ndarray, "*block"]:
    return _ratio(counts.together, counts.both)


def _of_directions(
    known: KnownFeatures, live: Bool[np.ndarray, " d_sae"], seed: int
) -> dict[str, Scalar]:
    features = toys.features(known.toy)
    directions = known.W_dec.detach().cpu()[torch.from_numpy(live)]
    num_live = len(directions)

    def scalar(value: float | None, method: str, reason: str) -> Scalar:
        return Scalar(
            value,
            None,
            None,
            n=num_live,
            unit="1",
            method=method,
            metric_version=METRIC_VERSION,
            seed=None,
            reason=reason if value is None else None,
        )

    cosine = recovery.cosines(directions, features)
    found = recovery.recovery(cosine) if num_live else None
    null = recovery.null_mcc(num_live, features, seed=seed) if num_live else None
    methods = {
        "mcc": "exact; mean |cos| of the best matching of live latents with features",
        "uniqueness": "exact; features nearest to some live latent, over live latents",
        "gt_recall": "exact; share of features with a live latent of |cos| >= "
        f"{recovery.RECALL_COSINE:g}",
    }
    return {
        name: scalar(getattr(found, name, None), method, _SILENT)
        for name, method in methods.items()
    } | {
        "mcc_null": scalar(
            None if null is None else float(null.mean()),
            f"mcc of random directions, mean and extremes of {recovery.NULL_DRAWS}",
            _SILENT,
        )._replace(
            ci_low=None if null is None else float(null.min()),
            ci_high=None if null is None else float(null.max()),
            seed=seed,
        ),
        "hedge_gt": scalar(
            recovery.hedging(cosine, features, known.tied) if num_live else None,
            "exact; mean cos of a feature's latent with features tied to it, beyond "
            "that of the features",
            "the toy ties no feature that has a latent" if num_live else _SILENT,
        ),
    }


def _scalar(
    name: str,
    value: float,
    left_out: Float64[np.ndarray, " block"],
    sizes: Float64[np.ndarray, " block"],
    *,
    n: int,
    reason: str,
) -> Scalar:
    found = intervals.UNDEFINED
    if not np.isnan(value):
        found = intervals.jackknife(value, left_out, sizes)
    return Scalar(
        *found,
        n=n,
        unit="1",
        method=f"{_METHODS[name]}; {_JACKKNIFE}",
        metric_version=METRIC_VERSION,
        seed=None,
        reason=reason if found.value is None else None,
    )


def _ratio(
    part: Float64[np.ndarray, "*block"], whole: Float64[np.ndarray, "*block"]
) -> Float64[np.ndarray, "*block"]:
    """Return a share; NaN of nothing."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)
