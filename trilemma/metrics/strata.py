"""How contexts mix in a latent's strongest firings, and how far from chance they do.

Weak activations are more mixed than strong ones, so each fifth of a latent's firings is
measured apart. All numbers here rest on a hundred firings of each latent that has them,
so that a dense latent is not mixed for being dense (what ecology calls rarefaction).
One of fewer firings is nearer to chance for having so few.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64, Integer
from torch import Tensor

from trilemma.metrics import intervals, scalar
from trilemma.metrics.intervals import UNDEFINED, Interval
from trilemma.metrics.polysemanticity import effective_number, purity
from trilemma.metrics.reservoir import Reservoir
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.streaming import Batch

METRIC_VERSION = 1
SAMPLED_FIRINGS = 100
"""Firings of each latent that are kept, at most."""
LEAST_FIRINGS = 20
"""Fewer leave a latent without numbers: a fifth of them would be three or less."""
NUM_STRATA = 5
NUM_DEALS = 32
"""Deals of labels by chance; the standard deviation behind `poly_z` is good to 13 %."""
_ROUNDING = 1e-9
"""Share of chance's `n_eff` below which the deviation of the deals is rounding."""
_NO_ENDS = "no interval"


class Sampled(NamedTuple):
    """A uniform sample of each latent's firings, one entry a firing."""

    latent: Int64[np.ndarray, " entry"]
    position: Int64[np.ndarray, " entry"]
    """Row of the held-out split."""
    block: Int64[np.ndarray, " entry"]
    """Block of documents."""
    size: Float64[np.ndarray, " entry"]
    """Absolute activation."""
    stratum: Int64[np.ndarray, " entry"]
    """Fifth of the latent's sampled firings, 0 being the strongest."""


class Firings:
    """The measure that keeps some firings of every latent."""

    def __init__(
        self, d_sae: int, *, num_blocks: int, seed: int, device: torch.device
    ) -> None:
        self._num_blocks = num_blocks
        self._reservoir = Reservoir(d_sae, SAMPLED_FIRINGS, seed=seed, device=device)

    def add(self, batch: Batch) -> None:
        """Take in the firings of a batch."""
        block = batch.document % self._num_blocks

        def facts(chosen: Tensor) -> tuple[Tensor, ...]:
            return batch.value[chosen], block[batch.row[chosen]]

        self._reservoir.add(batch.latent, batch.position[batch.row], facts)

    def sampled(self) -> Sampled:
        """Return the firings kept, a latent's strongest first."""
        kept = self._reservoir.kept()
        latent, position = kept.group.cpu().numpy(), kept.position.cpu().numpy()
        value, block = (fact.cpu().numpy() for fact in kept.facts)
        size = np.abs(value.astype(np.float64))
        order = np.lexsort((position, -size, latent))
        latent = latent[order]
        return Sampled(
            latent, position[order], block[order], size[order], _parts(latent)
        )


class Strata(NamedTuple):
    """How labels share the sampled firings of each latent; NaN where too few."""

    n_eff_top: Float64[np.ndarray, " d_sae"]
    """Effective number of labels in the strongest fifth of a latent's firings."""
    n_eff_top_null: Float64[np.ndarray, " d_sae"]
    """The same with labels dealt by chance."""
    purity_top: Float64[np.ndarray, " d_sae"]
    purity_top_null: Float64[np.ndarray, " d_sae"]
    poly_z: Float64[np.ndarray, " d_sae"]
    """`n_eff` of all sampled firings, in standard deviations from that of chance."""


class Means(NamedTuple):
    """Means over latents with enough firings, each latent alike."""

    ratio_top: Interval
    """Of `n_eff / n_eff_null` in the strongest fifth."""
    ratio: Interval
    """The same in each fifth, mean of the fifths."""
    purity_top: Interval
    purity_top_null: Interval
    purity: Interval
    purity_null: Interval
    poly_z: Interval
    num_latents: int


def strata(
    sampled: Sampled,
    labels: Integer[np.ndarray, " row"],
    *,
    num_labels: int,
    d_sae: int,
    seed: int,
) -> tuple[Strata, Means]:
    """Return how labels share the sampled firings, and the means over latents.

    `labels` are those of all rows, -1 where a row does not count. Chance draws a
    label for each row from all rows that count. Intervals delete one block of
    documents at a time; strata and chance are held fixed.
    """
    shape = (NUM_STRATA, d_sae, num_labels)
    cell = (sampled.stratum * d_sae + sampled.latent) * num_labels
    enough = np.bincount(sampled.latent, minlength=d_sae) >= LEAST_FIRINGS

    def mass(
        label: Integer[np.ndarray, " entry"], size: Float64[np.ndarray, " entry"]
    ) -> Float64[np.ndarray, "stratum d_sae label"]:
        found = np.bincount(cell + label, size, minlength=int(np.prod(shape)))
        return np.where(enough[:, None], found.reshape(shape), 0)

    pool, own = labels[labels >= 0], labels[sampled.position]
    generator = np.random.default_rng(seed)
    row, entry = np.unique(sampled.position, return_inverse=True)
    deals = []
    for _ in range(NUM_DEALS):  # one is five numbers for each latent and label
        label = pool[generator.integers(0, len(pool), len(row))][entry]
        dealt = mass(label, sampled.size)
        deals.append(
            (
                effective_number(dealt),
                purity(dealt),
                effective_number(dealt.sum(0)),
            )
        )
    n_effs, purities, wholes = zip(*deals, strict=True)
    n_eff_null, purity_null = np.mean(n_effs, axis=0), np.mean(purities, axis=0)
    whole = np.stack(wholes)
    spread = whole.std(0, ddof=1)
    # Where labels are so many that no deal gives a latent one twice, all deals agree.
    spread = np.where(spread > _ROUNDING * whole.mean(0), spread, np.nan)

    def scores(size: Float64[np.ndarray, " entry"]) -> _Scores:
        found = mass(own, size)
        n_eff = effective_number(found)
        z = (effective_number(found.sum(0)) - whole.mean(0)) / spread
        return _Scores(n_eff, n_eff / n_eff_null, purity(found), z)

    ours = scores(sampled.size)
    blocks, sizes = np.unique(sampled.block[enough[sampled.latent]], return_counts=True)
    left_out = [scores(sampled.size * (sampled.block != block)) for block in blocks]

    def mean(pick: Callable[[_Scores], np.ndarray]) -> Interval:
        return _jackknifed(pick(ours), [pick(each) for each in left_out], sizes)

    columns = Strata(
        n_eff_top=ours.n_eff[0],
        n_eff_top_null=n_eff_null[0],
        purity_top=ours.purity[0],
        purity_top_null=purity_null[0],
        poly_z=ours.z,
    )
    means = Means(
        ratio_top=mean(lambda scores: scores.ratio[0]),
        ratio=mean(lambda scores: scores.ratio),
        purity_top=mean(lambda scores: scores.purity[0]),
        purity_top_null=_jackknifed(purity_null[0], [], sizes[:0]),
        purity=mean(lambda scores: scores.purity),
        purity_null=_jackknifed(purity_null, [], sizes[:0]),
        poly_z=mean(lambda scores: scores.z),
        num_latents=int(enough.sum()),
    )
    return columns, means


def scalars(means: Means, *, num_blocks: int, seed: int) -> dict[str, Scalar]:
    """Return `poly_z`, and sharing in the strongest fifth and in all fifths alike."""
    top, each = "strongest fifth of a latent's firings", "mean over fifths of firings"
    jackknife = f"jackknife over {num_blocks} document blocks"
    found = {
        "polysemanticity_top": (means.ratio_top, "n_eff/null", top, jackknife),
        "polysemanticity_strata": (means.ratio, "n_eff/null", each, jackknife),
        "purity_top": (means.purity_top, "purity", top, jackknife),
        "purity_top_null": (means.purity_top_null, "purity by chance", top, _NO_ENDS),
        "purity_strata": (means.purity, "purity", each, jackknife),
        "purity_strata_null": (means.purity_null, "purity by chance", each, _NO_ENDS),
        "poly_z": (means.poly_z, "n_eff in sd from chance", "all firings", jackknife),
    }
    return {
        name: scalar.pure_number(
            interval.value,
            interval[1:],
            n=means.num_latents,
            method=f"{what}, {part}, at most {SAMPLED_FIRINGS} a latent; mean over "
            f"latents, {how}",
            version=METRIC_VERSION,
            reason="all deals of labels by chance agree"
            if means.num_latents > 0
            else f"no latent fired on {LEAST_FIRINGS} tokens",
            seed=seed,
        )
        for name, (interval, what, part, how) in found.items()
    }


class _Scores(NamedTuple):
    n_eff: Float64[np.ndarray, "stratum d_sae"]
    ratio: Float64[np.ndarray, "stratum d_sae"]
    purity: Float64[np.ndarray, "stratum d_sae"]
    z: Float64[np.ndarray, " d_sae"]


def _parts(latent: Int64[np.ndarray, " entry"]) -> Int64[np.ndarray, " entry"]:
    """Return which part of its latent's entries each is in, all as large as can be."""
    count = np.bincount(latent)
    rank = np.arange(len(latent)) - (np.cumsum(count) - count)[latent]
    part: Int64[np.ndarray, " entry"] = rank * NUM_STRATA // count[latent]
    return part


def _jackknifed(
    value: Float64[np.ndarray, "*latents"],
    left_out: Sequence[Float64[np.ndarray, "*latents"]],
    sizes: Int64[np.ndarray, " block"],
) -> Interval:
    """Return the mean of what is defined, with its jackknife interval over blocks."""
    whole, *means = (
        np.nan if np.isnan(part).all() else float(part[~np.isnan(part)].mean())
        for part in (value, *left_out)
    )
    if np.isnan(whole):
        return UNDEFINED
    return intervals.jackknife(whole, np.array(means), sizes)
