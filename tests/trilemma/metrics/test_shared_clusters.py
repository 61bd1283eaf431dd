"""Pairs of clusters that occur together: known latents, and known words."""

import math

import numpy as np
import torch

from trilemma.metrics import co_occurrence, shared_clusters

LABELS = np.array([[0, 1, 0, 1], [0, 1, 2, 2], [3, 3, 2, 2]])
DOCUMENT = np.array([[0] * 4, [1] * 4, [2] * 4])


def pairs(mass: np.ndarray, num: int = 10) -> tuple[shared_clusters.SharedPair, ...]:
    """Return pairs of LABELS; latents fire as often as their mass is large."""
    counts = co_occurrence.count(
        LABELS, DOCUMENT, num_labels=4, num_blocks=1, window_tokens=2
    )
    fired = mass.sum(1).astype(np.int64)
    return shared_clusters.pairs(
        counts, mass=mass[None], num_fired=fired[None], num=num
    )


def test_the_latent_of_most_shared_activation_is_named() -> None:
    mass = np.array(
        [[6.0, 2, 0, 0], [1, 1, 0, 0], [0, 0, 5, 0], [0, 0, 0, 5], [9, 0, 0, 0]]
    )
    first = pairs(mass)[0]
    # Windows: {0, 1} three times, {2} twice, {3} once.
    assert (first.first, first.second) == (0, 1)
    assert math.isclose(first.together, 3 * 6 / (3 * 3))
    assert first.latent == 0
    assert (first.first_share, first.second_share) == (0.75, 0.25)
    # By firings: 8 x 3/4 x 1/4 of that and 2 x 1/2 x 1/2.
    assert math.isclose(first.latent_share, 1.5 / 2)


def test_pairs_that_share_no_latent_are_left_out() -> None:
    assert pairs(np.diag([4.0, 4, 4, 4])) == ()
    assert pairs(np.zeros((3, 4))) == ()


def test_pairs_come_by_lift_and_no_more_than_asked_for() -> None:
    found = pairs(np.ones((2, 4)))
    assert [pair.together for pair in found] == sorted(
        (pair.together for pair in found), reverse=True
    )
    assert len(found) > 1
    assert pairs(np.ones((2, 4)), num=1) == found[:1]


def test_the_tokens_of_a_cluster_are_those_that_tell_of_it() -> None:
    tokens = torch.tensor([5, 5, 7, 9, 7, 7, 5, 9, 2])
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, -1], dtype=torch.int32)
    found = shared_clusters.telling_tokens(tokens, labels, num_labels=3, num=2)
    # 9 is as likely in either, 2 in a row that does not count.
    assert found.tolist() == [[5, -1], [7, -1], [-1, -1]]
