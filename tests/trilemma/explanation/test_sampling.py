"""Tests of the sample of latents: live, sorted, spread over densities."""

import numpy as np

from trilemma.explanation.sampling import sample_latents

DENSITY = np.concatenate(
    [np.zeros(500), np.full(900, 2e-4), np.full(90, 2e-3), np.full(8, 2e-2), [0.3, 0.4]]
)


def test_only_live_latents_are_sampled() -> None:
    assert (DENSITY[sample_latents(DENSITY, num=100, seed=0)] > 0).all()


def test_every_decade_gives_as_many_as_it_can() -> None:
    chosen = DENSITY[sample_latents(DENSITY, num=16, seed=0)]
    values, counts = np.unique(np.floor(np.log10(chosen)), return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {
        -1: 2,
        -2: 5,
        -3: 5,
        -4: 4,
    }


def test_the_sample_is_sorted_and_without_repeats() -> None:
    chosen = sample_latents(DENSITY, num=64, seed=3)
    assert chosen.tolist() == sorted(set(chosen.tolist())) and len(chosen) == 64


def test_the_same_seed_gives_the_same_sample() -> None:
    first, second, other = (
        sample_latents(DENSITY, num=32, seed=seed).tolist() for seed in (1, 1, 2)
    )
    assert first == second != other


def test_fewer_live_latents_than_asked_for_are_all_sampled() -> None:
    density = np.array([0, 0.1, 0, 0.001])
    assert sample_latents(density, num=9, seed=0).tolist() == [1, 3]


def test_an_sae_without_live_latents_gives_an_empty_sample() -> None:
    assert sample_latents(np.zeros(8), num=4, seed=0).tolist() == []
