"""The simulation that shows what measures of similar examples cannot see, by its table.

Sixteen concepts in eight pairs at density 0.08; 6,000 rows of another draw. Tolerances
are three standard errors of a difference between two draws of that size, or more.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from trilemma.proxies import merges, values, worlds
from trilemma.proxies.measures import MEASURES, Measure
from trilemma.proxies.merges import Kind
from trilemma.proxies.worlds import PAIRS, Code, World

Number = Callable[[Code, World], float]


def known(name: str) -> Number:
    return next(each.value for each in MEASURES if each.name == name)


def distortion(code: Code, world: World) -> float:
    return float((world.x - code.acts @ code.W_dec).square().sum(1).mean())


def entropy_of_firing(code: Code, world: World) -> float:
    p = (code.acts != 0).double().mean(0)
    return float(-(p * p.log2() + (1 - p) * (1 - p).log2()).sum())


def mean_monoscore(code: Code, world: World) -> float:
    return float(np.nanmean(values.monoscores(code, world).score))


def detection(code: Code, world: World) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each latent's precision and F1 as a detector of each concept."""
    assert world.concepts is not None
    fires, present = (code.acts != 0).double(), world.concepts.active.double()
    both, fired = fires.T @ present, fires.sum(0)[:, None]
    return both / fired, 2 * both / (fired + present.sum(0))


def precision(code: Code, world: World) -> float:
    return float(detection(code, world)[0].amax(1).mean())


def f1(code: Code, world: World) -> float:
    return float(detection(code, world)[1].amax(1).mean())


COLUMNS: tuple[tuple[Number, float], ...] = (
    (known("l0"), 0.08),
    (entropy_of_firing, 0.25),
    (distortion, 0.03),
    (values.participation, 0.01),
    (mean_monoscore, 0.01),
    (precision, 0.015),
    (f1, 0.015),
    (known("c_dec"), 0.0005),
)
TABLE: dict[tuple[float, Kind | None], tuple[float, ...]] = {
    (0.2, None): (1.286, 6.454, 0, 1.00, 0.562, 1.00, 1.00, 0),
    (0.2, "conjunctive"): (1.163, 6.466, 0, 1.11, 0.636, 1.00, 0.705, 0.041),
    (0.2, "disjunctive"): (1.163, 4.783, 0.520, 2.00, 0.377, 0.562, 0.720, 0),
    (0.5, None): (1.256, 6.350, 0, 1.00, 0.580, 1.00, 1.00, 0),
    (0.5, "conjunctive"): (0.944, 5.738, 0, 1.33, 0.659, 1.00, 0.669, 0.041),
    (0.5, "disjunctive"): (0.944, 4.187, 0.316, 2.00, 0.505, 0.672, 0.804, 0),
    (0.8, None): (1.283, 6.442, 0, 1.00, 0.661, 1.00, 1.00, 0),
    (0.8, "conjunctive"): (0.772, 4.663, 0, 1.66, 0.677, 1.00, 0.523, 0.041),
    (0.8, "disjunctive"): (0.772, 3.662, 0.131, 2.00, 0.648, 0.842, 0.914, 0),
}


@pytest.mark.parametrize(("co_occurrence", "kind"), TABLE)
def test_the_simulation_has_its_known_numbers(
    co_occurrence: float, kind: Kind | None
) -> None:
    world = worlds.pairs(co_occurrence)
    code = worlds.monosemantic(world)
    if kind is not None:
        code = merges.merge(code, PAIRS, kind)
    expected = TABLE[co_occurrence, kind]
    for (number, tolerance), value in zip(COLUMNS, expected, strict=True):
        assert number(code, world) == pytest.approx(value, abs=tolerance), number


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_a_dead_sae_has_no_number_but_its_l0(measure: Measure) -> None:
    world = worlds.pairs(0.5)
    code = worlds.monosemantic(world)
    found = measure.value(Code(code.W_dec, torch.zeros_like(code.acts)), world)
    assert np.isnan(found) or (measure.name, found) == ("l0", 0)
