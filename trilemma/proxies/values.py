"""The numbers behind the harness's measures, each by the code that evaluation runs."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float, Float64, Int32
from torch import Tensor

from trilemma.metrics import (
    activated,
    disentanglement,
    geometry,
    merging,
    polysemanticity,
    recovery,
    strata,
)
from trilemma.metrics.baseline import NUM_PERMUTATIONS
from trilemma.metrics.coherence import Coherence, Examples
from trilemma.metrics.consistency import Classes, Consistency, by_position
from trilemma.metrics.disentanglement import Counts
from trilemma.metrics.geometry import Geometry
from trilemma.metrics.intervals import NUM_BLOCKS, Interval
from trilemma.metrics.merging import Merging
from trilemma.metrics.monoscore import MonoScore, Scores
from trilemma.metrics.polysemanticity import Sharing
from trilemma.metrics.recovery import Recovery
from trilemma.metrics.strata import Firings, Means
from trilemma.metrics.streaming import Batch
from trilemma.proxies.played import shown
from trilemma.proxies.worlds import PAIRS, Code, Concepts, World

_CPU = torch.device("cpu")
_TIED = torch.tensor([pair[::step] for pair in PAIRS for step in (1, -1)])
"""Both orders of each pair of concepts that occur together."""
Value = Callable[[Code, World], float]
"""The number that an SAE gets; NaN where it is undefined."""
Column = Float64[np.ndarray, " d_sae"]


def over_firings(column: Column, code: Code) -> float:
    """Return the mean over latents where it is defined, weighted by firings."""
    weight = np.where(np.isnan(column), 0, (code.acts != 0).sum(0).numpy())
    if weight.sum() == 0:
        return np.nan
    return float(np.nansum(column * weight) / weight.sum())


def over_latents(column: Column) -> float:
    """Return the mean over latents where it is defined, each latent alike."""
    defined = column[~np.isnan(column)]
    return float(defined.mean()) if len(defined) else np.nan


def participation(code: Code, world: World) -> float:
    """Return the firing-weighted participation, the truth that others are held to."""
    directions = _known(world).directions
    return over_firings(
        polysemanticity.matches(code.W_dec, directions).participation, code
    )


def known_features(name: str) -> Value:
    """Return what firings tell of the concepts, by one of `disentanglement.means`."""
    return lambda code, world: disentanglement.means(_counts(code, world))[name]


def cofiring_features(code: Code, world: World) -> float:
    """Return on how many concepts' rows a latent mostly fires."""
    return over_latents(activated.cofiring(_counts(code, world)))


def mmcs(code: Code, world: World) -> float:
    """Return the largest |cosine| of a concept with a live latent's row, mean."""
    cosine = _live_cosines(code, world).abs()
    return float(cosine.amax(0).mean()) if len(cosine) else np.nan


def of_recovery(pick: Callable[[Recovery], float]) -> Value:
    """Return how well live latents' rows recover the concepts."""

    def value(code: Code, world: World) -> float:
        cosine = _live_cosines(code, world)
        return pick(recovery.recovery(cosine)) if len(cosine) else np.nan

    return value


def hedging(code: Code, world: World) -> float:
    """Return how far the rows of concepts lean towards the concepts tied to them."""
    cosine = _live_cosines(code, world)
    return _number(recovery.hedging(cosine, _known(world).directions, _TIED))


def co_activation(code: Code, world: World) -> float:
    """Return how often the latents of both of a pair fire where both are present.

    Pairs are pooled; those of which a latent never fires are left out.
    """
    concepts, fires = _known(world), code.acts != 0
    latent = recovery.matched(recovery.cosines(code.W_dec, concepts.directions))
    is_live = (latent >= 0) & fires.any(0)[latent]
    one, other = _TIED[is_live[_TIED].all(1)].t()
    both = concepts.active[:, one] & concepts.active[:, other]
    together = both & fires[:, latent[one]] & fires[:, latent[other]]
    return float(together.sum() / both.sum()) if both.any() else np.nan


def sharing(code: Code, world: World) -> Sharing:
    """Return how the labels of a world share the latents."""
    own, *null = (_mass(code, labels, world.num_labels) for labels in _dealt(world))
    return polysemanticity.sharing(
        mass=own[None],
        null_mass=np.stack(null),
        num_fired=(code.acts != 0).sum(0).numpy()[None],
        norms=code.W_dec.double().norm(dim=1).numpy(),
    )


def of_sharing(pick: Callable[[Sharing], Interval]) -> Value:
    """Return a mean over latents of how the labels share them."""
    return lambda code, world: _number(pick(sharing(code, world)).value)


def purity_ratio(code: Code, world: World) -> float:
    """Return the firing-weighted mean of purity beside that of chance."""
    found = sharing(code, world)
    return over_firings(found.purity / found.purity_null, code)


def of_strata(pick: Callable[[Means], Interval]) -> Value:
    """Return a mean over latents of how labels share equally many firings of each."""

    def value(code: Code, world: World) -> float:
        d_sae = len(code.W_dec)
        kept = Firings(d_sae, num_blocks=NUM_BLOCKS, seed=world.seed, device=_CPU)
        _, means = strata.strata(
            shown(kept, code, world).sampled(),
            world.labels,
            num_labels=world.num_labels,
            d_sae=d_sae,
            seed=world.seed,
        )
        return _number(pick(means).value)

    return value


def monoscores(code: Code, world: World) -> Scores:
    """Return the MonoScore of each latent."""
    num_latents, width = len(code.W_dec), world.embedding.shape[1]
    measure = MonoScore(num_latents, width, embed=_embed(world), device=_CPU)
    return shown(measure, code, world).scores()


def monoscore(code: Code, world: World) -> float:
    """Return the mean MonoScore."""
    return over_latents(monoscores(code, world).score)


def monoscore_excess(code: Code, world: World) -> float:
    """Return the mean MonoScore beyond that of all pairs of rows."""
    found = monoscores(code, world)
    return over_latents(found.score) - _number(found.base_rate)


def of_coherence(pick: Callable[[Coherence], Column]) -> Value:
    """Return how alike the rows are that fire a latent, mean over latents."""

    def value(code: Code, world: World) -> float:
        measure = Examples(
            len(code.W_dec), embed=_embed(world), seed=world.seed, device=_CPU
        )
        return over_latents(pick(shown(measure, code, world).coherence()))

    return value


def of_consistency(pick: Callable[[Consistency], Column]) -> Value:
    """Return how consistent latents are with the labels, mean over latents."""

    def value(code: Code, world: World) -> float:
        classes = by_position(torch.from_numpy(world.labels))
        measure = Classes(
            len(code.W_dec), world.num_labels, classes=classes, device=_CPU
        )
        found = shown(measure, code, world).consistency(seed=world.seed)
        return over_latents(pick(found))

    return value


def of_geometry(pick: Callable[[Geometry], float | None]) -> Value:
    """Return how the decoder rows of live latents lie."""

    def value(code: Code, _: World) -> float:
        is_live = (code.acts != 0).any(0).numpy()
        return _number(pick(geometry.geometry(code.W_dec, None, is_live=is_live)))

    return value


def of_merging(name: str) -> Value:
    """Return what merging latents that fire together would save; a row a document."""

    def value(code: Code, world: World) -> float:
        measure = Merging(d_sae=len(code.W_dec), device=_CPU)
        found = shown(measure, code, world)
        return _number(merging.scalars(found.pairs(), found.counts())[name].value)

    return value


def l0(code: Code, _: World) -> float:
    """Return how many latents fire on a row."""
    return float((code.acts != 0).sum(1).double().mean())


def _known(world: World) -> Concepts:
    assert world.concepts is not None
    return world.concepts


def _live_cosines(code: Code, world: World) -> Float64[Tensor, "live concept"]:
    live = code.W_dec[(code.acts != 0).any(0)]
    return recovery.cosines(live, _known(world).directions)


def _counts(code: Code, world: World) -> Counts:
    fires, present = code.acts != 0, _known(world).active
    return Counts(
        rows=len(fires),
        fired=fires.sum(0).double().numpy(),
        present=present.sum(0).double().numpy(),
        both=(fires.double().T @ present.double()).numpy(),
    )


def _dealt(world: World) -> Iterator[Int32[np.ndarray, " row"]]:
    """Yield the labels, and then the same dealt anew among the rows."""
    yield world.labels
    for index in range(NUM_PERMUTATIONS):
        yield np.random.default_rng([world.seed, index]).permutation(world.labels)


def _mass(
    code: Code, labels: Int32[np.ndarray, " row"], num_labels: int
) -> Float64[np.ndarray, "d_sae label"]:
    label = torch.from_numpy(labels).long()
    mass = torch.zeros(num_labels, len(code.W_dec), dtype=torch.float64)
    mass.index_add_(0, label, code.acts.abs().double())
    return mass.T.numpy()


def _embed(world: World) -> Callable[[Batch], Float[Tensor, "row width"]]:
    return lambda batch: world.embedding[torch.from_numpy(batch.rows.position)]


def _number(value: float | None) -> float:
    return np.nan if value is None else value
