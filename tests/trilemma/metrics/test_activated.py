"""Tests of how many features a latent answers to."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from trilemma.metrics import activated
from trilemma.metrics.disentanglement import Counts

FEATURES = torch.eye(6)


@dataclass
class Threshold:
    """Latents that fire where a direction's projection is above a half."""

    W_dec: Tensor

    def encode(self, x: Tensor) -> Tensor:
        acts = x @ self.W_dec.T
        return torch.where(acts > 0.5, acts, 0.0)

    def decode(self, acts: Tensor) -> Tensor:
        return acts @ self.W_dec


def test_a_pure_latent_answers_to_one_feature_and_a_merge_to_two() -> None:
    directions = torch.stack([FEATURES[0], (FEATURES[1] + FEATURES[2]) / 2**0.5])
    assert activated.one_hot(Threshold(directions), FEATURES).tolist() == [1, 2]


def test_weak_answers_and_scale_do_not_count() -> None:
    leaning = FEATURES[0] + 0.05 * FEATURES[1]
    for scale in (1.0, 1000.0):
        coder = Threshold(scale * leaning[None])
        assert activated.one_hot(coder, FEATURES).tolist() == [1]


def test_a_latent_that_needs_two_features_at_once_is_not_seen_by_one() -> None:
    both = (FEATURES[0] + FEATURES[1]) / 4
    assert np.isnan(activated.one_hot(Threshold(both[None]), FEATURES)).all()


def cofiring(acts: Tensor, active: Tensor) -> list[float]:
    fires, present = (acts != 0).double().numpy(), active.double().numpy()
    counts = Counts(len(fires), fires.sum(0), present.sum(0), fires.T @ present)
    return activated.cofiring(counts).tolist()


@pytest.fixture
def active() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3000, 4, generator=generator) < 0.1


def test_a_latent_goes_with_the_features_on_most_of_whose_rows_it_fires(
    active: Tensor,
) -> None:
    one, other = active[:, 0], active[:, 1]
    acts = torch.stack([one, one | other, one & other, ~one & ~other], dim=1)
    # Silence of both is where most rows of the two other features are.
    assert cofiring(acts, active) == [1, 2, 0, 2]


def test_a_dead_latent_goes_with_nothing_that_is_known(active: Tensor) -> None:
    assert math.isnan(cofiring(torch.zeros(3000, 1), active)[0])


def test_a_feature_that_never_occurs_goes_with_no_latent(active: Tensor) -> None:
    active[:, 3] = False
    assert cofiring(torch.ones(3000, 1), active) == [3]
