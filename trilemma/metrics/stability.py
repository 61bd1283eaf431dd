"""Stability: does another seed of the same SAE find the same directions?

The pairwise mean correlation coefficient of two dictionaries (PW-MCC; Song et al. 2025,
arXiv 2505.20254): decoder rows are matched one to one so that the mean |cosine| of the
pairs is largest.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from scipy import optimize
from torch import Tensor
from torch.nn import functional

from trilemma.metrics import scalar
from trilemma.metrics.scalar import Scalar

METRIC_VERSION = 1
STABLE_COSINE = 0.7
"""A matched pair with a larger |cosine| counts as found again."""
_MOST_COSINES = 1 << 22
"""Cosines among which pairs are sought: the time grows faster than their number."""


class Dictionary(NamedTuple):
    """The decoder of an SAE, and which of its latents fired on held-out rows."""

    W_dec: Float[Tensor, "d_sae d_in"]
    is_live: Bool[np.ndarray, " d_sae"]


class Stability(NamedTuple):
    """How well other seeds find a dictionary's directions."""

    metrics: dict[str, Scalar]
    best: Float64[np.ndarray, " d_sae"]
    """Largest |cosine| of each latent with one of another seed, mean over these seeds;
    NaN where it is not alive, or there is no other seed."""


@torch.inference_mode()
def stability(
    ours: Dictionary, others: Sequence[Dictionary], *, seed: int
) -> Stability:
    """Return the means over the other seeds, beside what random directions reach.

    Where two dictionaries have more than four million cosines, as many of our live
    latents are drawn as keep below that, and matched to all of theirs: they have less
    competition, so the value can be a little higher than that of all.
    """
    best = np.full(len(ours.is_live), np.nan)
    live = _unit_rows(ours)
    theirs = [rows for rows in map(_unit_rows, others) if len(rows) > 0]
    if not others:
        return Stability(_scalars([], seed, "the family has no other seed of it"), best)
    if len(live) == 0 or not theirs:
        return Stability(_scalars([], seed, "no latent fired that has a match"), best)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for rows in theirs:
        num = max(1, _MOST_COSINES // len(rows))
        drawn = live[
            torch.randperm(len(live), generator=generator)[:num].to(live.device)
        ]
        random = torch.randn(rows.shape, generator=generator).to(live)
        found.append(
            _Pairs(_matched(drawn, rows), _matched(drawn, functional.normalize(random)))
        )
    nearest = torch.stack([_nearest(live, rows) for rows in theirs]).double().mean(0)
    best[ours.is_live] = nearest.cpu().numpy()
    return Stability(_scalars(found, seed, ""), best)


class _Pairs(NamedTuple):
    cosine: Float64[np.ndarray, " pair"]
    by_chance: Float64[np.ndarray, " pair"]
    """Of as many random directions."""


def _unit_rows(dictionary: Dictionary) -> Float[Tensor, "live d_in"]:
    live = torch.from_numpy(np.flatnonzero(dictionary.is_live))
    W_dec = dictionary.W_dec
    return functional.normalize(W_dec[live.to(W_dec.device)].float(), dim=1)


def _matched(
    ours: Float[Tensor, "ours d_in"], theirs: Float[Tensor, "theirs d_in"]
) -> Float64[np.ndarray, " pair"]:
    """Return the |cosines| of the best pairs: as many as the smaller has rows."""
    cosine = (ours @ theirs.T).abs().double().cpu().numpy()
    pairs = optimize.linear_sum_assignment(cosine, maximize=True)
    found: Float64[np.ndarray, " pair"] = cosine[pairs]
    return found


def _nearest(
    ours: Float[Tensor, "ours d_in"], theirs: Float[Tensor, "theirs d_in"]
) -> Float[Tensor, " ours"]:
    """Return the largest |cosine| of each of ours with one of theirs."""
    blocks = torch.split(ours, max(1, _MOST_COSINES // len(theirs)))
    return torch.cat([(block @ theirs.T).abs().amax(1) for block in blocks])


def _scalars(found: Sequence[_Pairs], seed: int, reason: str) -> dict[str, Scalar]:
    methods = {
        "stability": "mean |cosine| of decoder rows",
        "stable_fraction": f"share with a |cosine| above {STABLE_COSINE:g}",
        "stability_null": "mean |cosine| with as many random directions",
    }
    values = [
        (p.cosine.mean(), (p.cosine > STABLE_COSINE).mean(), p.by_chance.mean())
        for p in found
    ]
    means = np.mean(values, axis=0) if values else [None] * len(methods)
    return {
        name: scalar.pure_number(
            None if mean is None else float(mean),
            n=sum(len(pairs.cosine) for pairs in found),
            method=f"{method}, live latents matched one to one; mean over "
            f"{len(found)} other seeds; no interval",
            version=METRIC_VERSION,
            reason=reason,
            seed=seed,
        )
        for (name, method), mean in zip(methods.items(), means, strict=True)
    }
