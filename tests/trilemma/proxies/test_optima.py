"""The optimal SAEs of the harness have the rates and distortions that theory gives."""

import math

import pytest

from trilemma.proxies import optima, worlds
from trilemma.proxies.worlds import EXCLUSIVE_DENSITY, NUM_PAIRS, Code, World

CO_OCCURRENCES = [0.2, 0.5, 0.8]


def rate(code: Code) -> float:
    return float((code.acts != 0).sum(1).double().mean())


def distortion(code: Code, world: World) -> float:
    return float((world.x - code.acts @ code.W_dec).square().sum(1).mean())


@pytest.mark.parametrize("co_occurrence", CO_OCCURRENCES)
def test_pairs_exclude_each_other(co_occurrence: float) -> None:
    active = worlds.exclusive_pairs(co_occurrence).concepts.active
    assert active.reshape(-1, NUM_PAIRS, 2).any(2).sum(1).max() == 1


@pytest.mark.parametrize("co_occurrence", CO_OCCURRENCES)
def test_rate_falls_along_its_families_and_pair_latents_lose_nothing(
    co_occurrence: float,
) -> None:
    world = worlds.exclusive_pairs(co_occurrence)
    wide, narrow = optima.by_rate(world)
    for family in (wide, narrow):
        rates = [rate(code) for code in family]
        assert rates == sorted(rates, reverse=True)
        assert rates[0] > rates[-1]
    assert max(distortion(code, world) for code in wide) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("co_occurrence", CO_OCCURRENCES)
def test_distortion_falls_along_its_families_at_one_latent_a_row(
    co_occurrence: float,
) -> None:
    world = worlds.exclusive_pairs(co_occurrence)
    for family in optima.by_distortion(world):
        losses = [distortion(code, world) for code in family]
        assert losses == sorted(losses, reverse=True)
        assert losses[0] > losses[-1]
        assert {rate(code) for code in family} == {rate(family[0])}
        assert max(int((code.acts != 0).sum(1).max()) for code in family) == 1


@pytest.mark.parametrize("co_occurrence", CO_OCCURRENCES)
def test_two_latents_a_pair_lose_what_theory_says(co_occurrence: float) -> None:
    """With P the rate of the impure latent's own concept alone and q that of both."""
    world = worlds.exclusive_pairs(co_occurrence)
    active = world.concepts.active.reshape(-1, NUM_PAIRS, 2).double()
    alone = (active[:, :, 1] * (1 - active[:, :, 0])).mean(0)
    both = active.prod(2).mean(0)
    known = (alone + 2 * both - (alone**2 + 4 * both**2).sqrt()).sum() / 2
    mixed = optima.by_distortion(world)[1][-1]
    assert distortion(mixed, world) == pytest.approx(float(known), abs=1e-6)


def test_concepts_are_as_dense_as_they_are_said_to_be() -> None:
    active = worlds.exclusive_pairs(0.5).concepts.active.double()
    error = math.sqrt(EXCLUSIVE_DENSITY / len(active) / NUM_PAIRS)
    assert float(active.mean()) == pytest.approx(EXCLUSIVE_DENSITY, abs=4 * error)
