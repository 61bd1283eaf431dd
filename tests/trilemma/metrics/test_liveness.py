"""Tests of which latents count as dead."""

import numpy as np

from trilemma.metrics import liveness


def test_a_silent_latent_is_dead_once_three_over_n_reaches_the_threshold() -> None:
    found = liveness.states(np.array([0, 5]), num_tokens=30_000, dead_density=1e-4)
    assert found.tolist() == ["dead", "alive"]


def test_a_silent_latent_is_undetermined_while_tokens_are_few() -> None:
    found = liveness.states(np.array([0, 5]), num_tokens=29_999, dead_density=1e-4)
    assert found.tolist() == ["undetermined", "alive"]
