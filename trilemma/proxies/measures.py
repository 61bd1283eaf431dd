"""The measures of polysemanticity that the harness tries, each a number for an SAE."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int32
from torch import Tensor

from trilemma.metrics import activated, disentanglement, geometry, polysemanticity
from trilemma.metrics.baseline import NUM_PERMUTATIONS
from trilemma.metrics.coherence import Examples
from trilemma.metrics.consistency import Classes, Consistency, by_position
from trilemma.metrics.disentanglement import Counts
from trilemma.metrics.geometry import Geometry
from trilemma.metrics.intervals import Interval
from trilemma.metrics.monoscore import MonoScore, Scores
from trilemma.metrics.polysemanticity import Sharing
from trilemma.metrics.streaming import Batch
from trilemma.proxies.played import shown
from trilemma.proxies.worlds import Code, Concepts, World

_CPU = torch.device("cpu")
Value = Callable[[Code, World], float]
"""The number that an SAE gets; NaN where it is undefined."""
Column = Float64[np.ndarray, " d_sae"]


class Measure(NamedTuple):
    """A measure as the harness knows it."""

    name: str
    value: Value
    sign: int
    """1 where more is more polysemantic, -1 where less is."""
    needs_concepts: bool = False
    """Whether it reads the truth, and so cannot be had where that is unknown."""
    chance: float | None = None
    """What it claims to be for latents that know nothing; None: it claims nothing."""
    is_sampled: bool = False
    """Whether it rests on a sample of firings, which few rows do not fill."""


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


def sharing(code: Code, world: World) -> Sharing:
    """Return how the labels of a world share the latents."""
    own, *null = (_mass(code, labels, world.num_labels) for labels in _dealt(world))
    return polysemanticity.sharing(
        mass=own[None],
        null_mass=np.stack(null),
        num_fired=(code.acts != 0).sum(0).numpy()[None],
        norms=code.W_dec.double().norm(dim=1).numpy(),
    )


def monoscores(code: Code, world: World) -> Scores:
    """Return the MonoScore of each latent."""
    num_latents, width = len(code.W_dec), world.embedding.shape[1]
    measure = MonoScore(num_latents, width, embed=_embed(world), device=_CPU)
    return shown(measure, code, world).scores()


def _known(world: World) -> Concepts:
    assert world.concepts is not None
    return world.concepts


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


def _of_sharing(pick: Callable[[Sharing], Interval]) -> Value:
    return lambda code, world: _number(pick(sharing(code, world)).value)


def _purity_ratio(code: Code, world: World) -> float:
    found = sharing(code, world)
    return over_firings(found.purity / found.purity_null, code)


def _monoscore(code: Code, world: World) -> float:
    return over_latents(monoscores(code, world).score)


def _monoscore_excess(code: Code, world: World) -> float:
    found = monoscores(code, world)
    return over_latents(found.score) - _number(found.base_rate)


def _coherence(code: Code, world: World) -> float:
    measure = Examples(
        len(code.W_dec), embed=_embed(world), seed=world.seed, device=_CPU
    )
    return over_latents(shown(measure, code, world).coherence().delta_plus)


def _consistency(pick: Callable[[Consistency], Column]) -> Value:
    def value(code: Code, world: World) -> float:
        classes = by_position(torch.from_numpy(world.labels))
        measure = Classes(
            len(code.W_dec), world.num_labels, classes=classes, device=_CPU
        )
        found = shown(measure, code, world).consistency(seed=world.seed)
        return over_latents(pick(found))

    return value


def _geometry(pick: Callable[[Geometry], float | None]) -> Value:
    def value(code: Code, _: World) -> float:
        is_live = (code.acts != 0).any(0).numpy()
        return _number(pick(geometry.geometry(code.W_dec, None, is_live=is_live)))

    return value


def _activated(code: Code, world: World) -> float:
    return over_latents(activated.cofiring(_counts(code, world)))


def _known_features(name: str) -> Value:
    return lambda code, world: disentanglement.means(_counts(code, world))[name]


def _counts(code: Code, world: World) -> Counts:
    fires, present = code.acts != 0, _known(world).active
    return Counts(
        rows=len(fires),
        fired=fires.sum(0).double().numpy(),
        present=present.sum(0).double().numpy(),
        both=(fires.double().T @ present.double()).numpy(),
    )


def _l0(code: Code, _: World) -> float:
    return float((code.acts != 0).sum(1).double().mean())


def _number(value: float | None) -> float:
    return np.nan if value is None else value


MEASURES = (
    Measure("participation", participation, 1, needs_concepts=True),
    Measure("f1_gap", _known_features("f1_gap"), 1, needs_concepts=True),
    Measure("mig", _known_features("mig"), -1, needs_concepts=True, chance=0),
    Measure(
        "disentanglement",
        _known_features("disentanglement"),
        -1,
        needs_concepts=True,
        chance=0,
    ),
    Measure(
        "completeness",
        _known_features("completeness"),
        -1,
        needs_concepts=True,
        chance=0,
    ),
    Measure("cofiring_features", _activated, 1, needs_concepts=True, chance=0),
    Measure("n_eff", _of_sharing(lambda found: found.mean_n_eff), 1),
    Measure("n_eff/null", _of_sharing(lambda found: found.mean_ratio), 1, chance=1),
    Measure("n_eff_geometric", _of_sharing(lambda found: found.geometric_n_eff), 1),
    Measure("purity", _of_sharing(lambda found: found.mean_purity), -1),
    Measure("purity/null", _purity_ratio, -1, chance=1),
    Measure("monoscore", _monoscore, -1),
    Measure("monoscore_excess", _monoscore_excess, -1, chance=0),
    Measure("coherence_delta_plus", _coherence, -1, chance=0, is_sampled=True),
    Measure("consistency", _consistency(lambda found: found.share), -1),
    Measure(
        "consistency/null",
        _consistency(lambda found: found.share / found.null),
        -1,
        chance=1,
    ),
    Measure("dict_cos", _geometry(lambda found: found.mean_dict_cos), 1),
    Measure("c_dec", _geometry(lambda found: found.c_dec), 1),
    Measure("l0", _l0, 1),
)
"""Named as evaluation names its metrics, less what they compare rows by; a / or
participation begins the method of the headline that it is."""
