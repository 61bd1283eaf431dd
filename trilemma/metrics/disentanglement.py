"""How latents' firings tell known features apart: F1, information gaps, DCI.

A latent fires or does not and a feature is present or not, so everything follows from
how often each two of them come together.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64


class Counts(NamedTuple):
    """Rows on which latents fired and features were present."""

    rows: float
    fired: Float64[np.ndarray, " d_sae"]
    present: Float64[np.ndarray, " num_features"]
    both: Float64[np.ndarray, "d_sae num_features"]


class LatentFacts(NamedTuple):
    """What is said of each latent; NaN where it is silent."""

    f1_gap: Float64[np.ndarray, " d_sae"]
    """1 less the best F1 of its firing as a test of a feature."""
    mig: Float64[np.ndarray, " d_sae"]
    """Gap between its two largest mutual informations with features, over the entropy
    of the feature that has the larger."""
    disentanglement: Float64[np.ndarray, " d_sae"]
    """1 less the entropy of its shares of mutual information over the features, in
    units of the largest that there is; NaN too where it tells nothing of any."""


def latent_facts(counts: Counts) -> LatentFacts:
    """Return what is said of each latent.

    The gap over latents turns round that of Chen et al. 2018 (Isolating sources of
    disentanglement, eq. 6), which is over features (proposed here); disentanglement is
    that of Eastwood and Williams 2018 with mutual information for importance.
    """
    return _latent_facts(counts, mutual_information(counts))


def means(counts: Counts) -> dict[str, float]:
    """Return the SAE's numbers; NaN where no latent fires.

    `f1_gap` and `mig_latent` are means over latents by their firings, `mig` over
    features (Chen et al. 2018, eq. 6), `disentanglement` and `completeness` over
    latents and features by their mutual information (Eastwood and Williams 2018).
    """
    information = mutual_information(counts)
    facts = _latent_facts(counts, information)
    entropy = _entropy(counts.present / counts.rows)
    of_features = _gap(
        information.T, np.broadcast_to(entropy[:, None], information.T.shape)
    )
    varies = (entropy > 0) * float(counts.fired.any())
    return {
        "f1_gap": _mean(facts.f1_gap, counts.fired),
        "mig_latent": _mean(facts.mig, counts.fired),
        "mig": _mean(of_features, varies),
        "disentanglement": _mean(facts.disentanglement, information.sum(1)),
        "completeness": _mean(_concentration(information.T), information.sum(0)),
    }


def mutual_information(counts: Counts) -> Float64[np.ndarray, "d_sae num_features"]:
    """Return I(a latent fires; a feature is present) in bits, the plug-in estimate."""
    n, both = counts.rows, counts.both
    fired, present = counts.fired[:, None], counts.present
    total = np.zeros_like(both)
    for joint, one, other in (
        (both, fired, present),
        (fired - both, fired, n - present),
        (present - both, n - fired, present),
        (n - fired - present + both, n - fired, n - present),
    ):
        ratio = joint * n / np.maximum(one * other, 1.0)
        total += joint / n * np.log2(np.where(joint > 0, ratio, 1.0))
    return total.clip(0)


def _latent_facts(
    counts: Counts, information: Float64[np.ndarray, "d_sae num_features"]
) -> LatentFacts:
    total = counts.fired[:, None] + counts.present
    f1 = 2 * counts.both / np.where(total > 0, total, 1.0)
    entropy = np.broadcast_to(_entropy(counts.present / counts.rows), f1.shape)
    facts = (1 - f1.max(1), _gap(information, entropy), _concentration(information))
    return LatentFacts(*(np.where(counts.fired > 0, fact, np.nan) for fact in facts))


def _gap(
    information: Float64[np.ndarray, "one other"],
    entropy: Float64[np.ndarray, "one other"],
) -> Float64[np.ndarray, " one"]:
    """Return the gap between the two largest of each row, over the entropy there."""
    best = information.argmax(1)
    rows = np.arange(len(information))
    largest = information[rows, best]
    others = information.copy()
    others[rows, best] = 0
    scale = entropy[rows, best]
    gap: Float64[np.ndarray, " one"]
    gap = (largest - others.max(1)) / np.where(scale > 0, scale, 1.0)
    return gap


def _concentration(
    importance: Float64[np.ndarray, "one other"],
) -> Float64[np.ndarray, " one"]:
    """Return 1 less the entropy of each row's shares, in units of the largest.

    NaN for a row of zeros, which has no shares.
    """
    num = importance.shape[1]
    total = importance.sum(1, keepdims=True)
    share = importance / np.where(total > 0, total, np.nan)
    entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(1)
    concentration: Float64[np.ndarray, " one"] = 1 - entropy / max(np.log(num), 1e-300)
    return concentration


def _entropy(p: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Return the binary entropy in bits."""
    total = np.zeros_like(p)
    for part in (p, 1 - p):
        total -= part * np.log2(np.where(part > 0, part, 1.0))
    return total


def _mean(
    value: Float64[np.ndarray, " entry"], weight: Float64[np.ndarray, " entry"]
) -> float:
    if not weight.sum() > 0:
        return float("nan")
    used = weight > 0
    return float((value[used] * weight[used]).sum() / weight.sum())
