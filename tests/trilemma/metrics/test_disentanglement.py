"""Firings against features: values known by hand, and other people's formulas."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, mutual_info_score

from trilemma.metrics import disentanglement
from trilemma.metrics.disentanglement import Counts


def counted(fired: np.ndarray, present: np.ndarray) -> Counts:
    """Return the counts of rows by what fired and what was present."""
    fires, is_there = fired.astype(float), present.astype(float)
    return Counts(float(len(fires)), fires.sum(0), is_there.sum(0), fires.T @ is_there)


def independent(num: int = 4, rows: int = 6) -> np.ndarray:
    """Return every set of features equally often, so that they are independent."""
    sets = np.arange(2**num)[:, None] >> np.arange(num) & 1
    return np.tile(sets.astype(bool), (rows, 1))


def at_random(seed: int = 0) -> Counts:
    generator = np.random.default_rng(seed)
    return counted(generator.random((200, 5)) < 0.3, generator.random((200, 4)) < 0.2)


def test_one_latent_for_each_feature_is_perfect() -> None:
    present = independent()
    found = disentanglement.means(counted(present, present))
    expected = {"f1_gap": 0, "mig_latent": 1, "mig": 1}
    expected |= {"disentanglement": 1, "completeness": 1}
    assert found == pytest.approx(expected, abs=1e-12)


def test_two_latents_for_each_feature_are_incomplete_and_yet_disentangled() -> None:
    present = independent()
    found = disentanglement.means(counted(np.tile(present, 2), present))
    assert found["disentanglement"] == pytest.approx(1)
    assert found["mig"] == pytest.approx(0)
    # Two of eight latents share each feature.
    assert found["completeness"] == pytest.approx(1 - np.log(2) / np.log(8))


def test_a_latent_for_either_of_two_features_is_entangled() -> None:
    present = independent()
    either = np.stack([present[:, 0] | present[:, 1], present[:, 2]], axis=1)
    counts = counted(either, present)
    facts = disentanglement.latent_facts(counts)
    assert facts.mig == pytest.approx([0, 1])
    assert facts.disentanglement == pytest.approx([1 - np.log(2) / np.log(4), 1])
    # It fires on three of four rows, of which two of three have the feature.
    assert facts.f1_gap == pytest.approx([1 - 2 * 2 / (3 + 2), 0])


def test_information_is_scikit_learns() -> None:
    generator = np.random.default_rng(1)
    fired, present = generator.random((300, 3)) < 0.4, generator.random((300, 2)) < 0.3
    fired[:, 0] = present[:, 0]
    found = disentanglement.mutual_information(counted(fired, present))
    for j in range(3):
        for i in range(2):
            nats = mutual_info_score(fired[:, j], present[:, i])
            assert found[j, i] == pytest.approx(nats / np.log(2), abs=1e-12)


def test_the_f1_gap_is_from_scikit_learns_f1() -> None:
    generator = np.random.default_rng(2)
    fired, present = generator.random((300, 3)) < 0.4, generator.random((300, 4)) < 0.3
    facts = disentanglement.latent_facts(counted(fired, present))
    for j in range(3):
        best = max(f1_score(present[:, i], fired[:, j]) for i in range(4))
        assert facts.f1_gap[j] == pytest.approx(1 - best)


def test_the_order_of_latents_and_features_does_not_matter() -> None:
    counts = at_random()
    turned = Counts(
        counts.rows, counts.fired[::-1], counts.present[::-1], counts.both[::-1, ::-1]
    )
    assert disentanglement.means(turned) == pytest.approx(disentanglement.means(counts))


def test_a_silent_latent_changes_nothing_but_the_unit_of_completeness() -> None:
    counts = at_random()
    more = Counts(
        counts.rows,
        np.append(counts.fired, 0.0),
        counts.present,
        np.vstack([counts.both, np.zeros(4)]),
    )
    before, after = disentanglement.means(counts), disentanglement.means(more)
    assert np.isnan(disentanglement.latent_facts(more).f1_gap[-1])
    spread = {
        name: 1 - found["completeness"]
        for name, found in (("before", before), ("after", after))
    }
    assert spread["after"] * np.log(6) == pytest.approx(spread["before"] * np.log(5))
    del before["completeness"], after["completeness"]
    assert after == pytest.approx(before)


def test_nothing_is_said_where_nothing_fires() -> None:
    counts = Counts(10.0, np.zeros(2), np.array([3.0, 4.0]), np.zeros((2, 2)))
    assert all(np.isnan(value) for value in disentanglement.means(counts).values())


def test_a_latent_that_always_fires_tells_no_feature_from_another() -> None:
    present = independent()
    always = np.ones((len(present), 1), dtype=bool)
    counts = counted(np.concatenate([always, present], axis=1), present)
    facts = disentanglement.latent_facts(counts)
    assert facts.mig[0] == 0
    assert np.isnan(facts.disentanglement[0])
    assert disentanglement.means(counts)["disentanglement"] == pytest.approx(1)


def test_a_toy_of_one_feature_has_no_gap_between_features() -> None:
    present = np.array([[True], [False], [True], [False]])
    found = disentanglement.means(counted(present, present))
    assert found["mig"] == pytest.approx(1)
    assert found["disentanglement"] == found["completeness"] == 1
