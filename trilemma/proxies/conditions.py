"""Ten conditions that a measure of polysemanticity should meet, tried on known SAEs.

They are proposed here, and no source lists them. Each is tried on sixteen concepts in
eight pairs (`worlds.pairs`) and on SAEs that merge some of these pairs; where a
condition speaks of optimal SAEs, on SAEs that are optimal there (`optima`).
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from scipy import stats
from torch.nn import functional

from trilemma.proxies import merges, optima, worlds
from trilemma.proxies.measures import Measure
from trilemma.proxies.merges import Kind
from trilemma.proxies.values import participation
from trilemma.proxies.worlds import PAIRS, Code, World

METRIC_VERSION = 1
CO_OCCURRENCES = (0.2, 0.5, 0.8)
_RESAMPLED = (0.1, 0.3, 0.5, 0.7, 0.9)
_DIGITS = 6
_EXACT = 1e-5
"""Relative change that an invariance may leave."""
_NEAR_CHANCE = 0.05
_SPARSE_DENSITY = 0.02
_NUM_DEALS = 8
_ANGLES = (20.0, 45.0)


class Condition(NamedTuple):
    """A condition, or the half of it that one kind of merge tries."""

    name: str
    meaning: str
    holds: Callable[[Measure], bool]
    reads_concepts: bool = False
    """Whether it is asked only of measures that read the truth; others meet it by
    construction."""

    def applies(self, measure: Measure) -> bool:
        """Return whether the measure could fail it."""
        return measure.needs_concepts or not self.reads_concepts


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return the rank correlation; None where a side is undefined or constant."""
    if not np.isfinite([one, other]).all() or min(np.ptp(one), np.ptp(other)) == 0:
        return None
    return round(float(stats.spearmanr(one, other).statistic), _DIGITS)


def correlation(measure: Measure, kind: Kind) -> float | None:
    """Return Spearman's correlation with the truth over planted merges.

    None to all of the pairs are merged, at three co-occurrences, pooled; the truth is
    the firing-weighted participation.
    """
    tried = [
        (code, worlds.pairs(value))
        for value in CO_OCCURRENCES
        for code in _path(value, kind)
    ]
    return spearman(
        [score(measure, *each) for each in tried],
        [participation(*each) for each in tried],
    )


def score(measure: Measure, code: Code, world: World) -> float:
    """Return the measure, turned so that more is more polysemantic.

    It is rounded, since codes are float32: what is left of a zero is no change.
    """
    return round(measure.sign * measure.value(code, world), _DIGITS)


def _ignores_order(measure: Measure) -> bool:
    code, world = _half_merged()
    order = torch.randperm(len(code.W_dec), generator=_generator())
    other = Code(code.W_dec[order], code.acts[:, order])
    return _is_same(score(measure, code, world), score(measure, other, world))


def _ignores_scale(measure: Measure) -> bool:
    code, world = _half_merged()
    drawn = torch.rand(len(code.W_dec), generator=_generator())
    factor = 4.0 ** (2 * drawn - 1)
    other = Code(code.W_dec / factor[:, None], code.acts * factor)
    return _is_same(score(measure, code, world), score(measure, other, world))


def _gains_nothing_from_dead(measure: Measure) -> bool:
    code, world = _half_merged()
    drawn = torch.randn(code.W_dec.shape, generator=_generator())
    other = Code(
        torch.cat([code.W_dec, functional.normalize(drawn, dim=1)]),
        torch.cat([code.acts, torch.zeros_like(code.acts)], dim=1),
    )
    return _is_no_less(score(measure, other, world), score(measure, code, world))


def _gains_nothing_from_copies(measure: Measure) -> bool:
    code, world = _half_merged()
    before = score(measure, code, world)
    return all(
        _is_no_less(score(measure, _with_copy(code, latent), world), before)
        for latent in range(len(code.W_dec))
    )


def _is_least_unmerged(measure: Measure, kind: Kind) -> bool:
    paths = [_path_scores(measure, value, kind) for value in CO_OCCURRENCES]
    return all(bool((path[1:] > path[0]).all()) for path in paths)


def _rises_with_merges(measure: Measure, kind: Kind) -> bool:
    paths = [_path_scores(measure, value, kind) for value in CO_OCCURRENCES]
    return all(bool((np.diff(path) > 0).all()) for path in paths)


def _never_falls(
    measure: Measure, families: Callable[[World], list[list[Code]]]
) -> bool:
    """Return whether the score never falls along families of optimal SAEs."""
    tried = (worlds.exclusive_pairs(value) for value in CO_OCCURRENCES)
    return all(
        _is_no_less(after, before)
        for world in tried
        for family in families(world)
        for before, after in itertools.pairwise(
            score(measure, code, world) for code in family
        )
    )


def _follows_data(measure: Measure, kind: Kind) -> bool:
    steps = []
    for seed in (1, 2):
        scores = []
        for value in _RESAMPLED:
            world = worlds.pairs(value, seed=seed)
            code = merges.merge(worlds.monosemantic(world), PAIRS, kind)
            scores.append(score(measure, code, world))
        steps += list(np.diff(scores))
    return bool(np.all(np.array(steps) > 0) or np.all(np.array(steps) < 0))


def _is_at_chance(measure: Measure) -> bool:
    if measure.chance is None:
        return False
    for density in (worlds.DENSITY, _SPARSE_DENSITY):
        world = worlds.pairs(0.5, density=density)
        values = [measure.value(code, world) for code in _dealt(world)]
        if not abs(float(np.mean(values)) - measure.chance) <= _NEAR_CHANCE:
            return False
    return True


def _ignores_basis(measure: Measure) -> bool:
    world = worlds.pairs(1.0)
    code = merges.merge(worlds.monosemantic(world), PAIRS, "disjunctive")
    before = score(measure, code, world)
    turned = (worlds.turned(world, degrees) for degrees in _ANGLES)
    return all(_is_same(score(measure, code, other), before) for other in turned)


CONDITIONS = (
    Condition("C1", "the order of latents changes nothing", _ignores_order),
    Condition(
        "C2",
        "activations times c and directions over c change nothing",
        _ignores_scale,
    ),
    Condition("C3 dead", "dead latents do not lower it", _gains_nothing_from_dead),
    Condition(
        "C3 copy",
        "a second copy of any latent, both at half strength, does not lower it",
        _gains_nothing_from_copies,
    ),
    *(
        Condition(
            f"C4 {short}",
            f"the monosemantic SAE scores below every {kind} merge of it",
            functools.partial(_is_least_unmerged, kind=kind),
        )
        for short, kind in merges.SHORT.items()
    ),
    *(
        Condition(
            f"C5 {short}",
            f"each further {kind} merge raises it",
            functools.partial(_rises_with_merges, kind=kind),
        )
        for short, kind in merges.SHORT.items()
    ),
    Condition(
        "C6",
        "it never falls along optimal SAEs of one width and ever lower rate",
        functools.partial(_never_falls, families=optima.by_rate),
    ),
    Condition(
        "C7",
        "it never falls along optimal SAEs of one rate and ever lower distortion",
        functools.partial(_never_falls, families=optima.by_distortion),
    ),
    *(
        Condition(
            f"C8 {short}",
            f"it follows the co-occurrence of concepts under a fixed SAE of {kind} "
            "merges, always up or always down",
            functools.partial(_follows_data, kind=kind),
        )
        for short, kind in merges.SHORT.items()
    ),
    Condition(
        "C9",
        "random directions with firings dealt anew score on average within "
        f"{_NEAR_CHANCE} of the chance that it claims, dense or sparse",
        _is_at_chance,
    ),
    Condition(
        "C10",
        "turning concepts that always occur together changes nothing",
        _ignores_basis,
        reads_concepts=True,
    ),
)


def _half_merged() -> tuple[Code, World]:
    """Return an SAE that joins two pairs by conjunction, two by disjunction."""
    world = worlds.pairs(0.5)
    code = merges.merge(worlds.monosemantic(world), PAIRS[:2], "conjunctive")
    return merges.merge(code, PAIRS[2:4], "disjunctive"), world


def _path(co_occurrence: float, kind: Kind) -> list[Code]:
    """Return the SAEs that merge none, one, ... all of the pairs."""
    code = worlds.monosemantic(worlds.pairs(co_occurrence))
    return [merges.merge(code, PAIRS[:num], kind) for num in range(len(PAIRS) + 1)]


def _path_scores(
    measure: Measure, co_occurrence: float, kind: Kind
) -> Float64[np.ndarray, " step"]:
    world = worlds.pairs(co_occurrence)
    return np.array(
        [score(measure, code, world) for code in _path(co_occurrence, kind)]
    )


def _dealt(world: World) -> Iterator[Code]:
    """Yield codes of random directions, with firings that know nothing of the rows."""
    generator, code = _generator(), worlds.monosemantic(world)
    for _ in range(_NUM_DEALS):
        dealt = torch.randperm(len(world.x), generator=generator)
        drawn = torch.randn(code.W_dec.shape, generator=generator)
        yield Code(functional.normalize(drawn, dim=1), code.acts[dealt])


def _with_copy(code: Code, latent: int) -> Code:
    acts = torch.cat([code.acts, code.acts[:, [latent]]], dim=1)
    acts[:, [latent, -1]] /= 2
    return Code(torch.cat([code.W_dec, code.W_dec[[latent]]]), acts)


def _is_same(one: float, other: float) -> bool:
    return abs(one - other) <= _EXACT * max(1, abs(one))


def _is_no_less(one: float, other: float) -> bool:
    return one >= other - _EXACT * max(1, abs(other))


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
