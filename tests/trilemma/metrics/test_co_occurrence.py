"""Labels that occur together, and latents that hold them: known answers."""

import itertools

import numpy as np
import pytest

from trilemma.metrics import co_occurrence
from trilemma.metrics.co_occurrence import Association, Counts

NUM_BLOCKS, NUM_LABELS = 20, 8


def counts_of(together: np.ndarray, neighbours: np.ndarray | None = None) -> Counts:
    """Return counts that every block has alike, up to noise."""
    generator = np.random.default_rng(0)
    noise = 1 + 0.01 * generator.random((NUM_BLOCKS, 1, 1))
    beside = np.ones_like(together) if neighbours is None else neighbours
    return Counts(
        together * noise, np.full(NUM_BLOCKS, 100.0), beside[None] * np.ones_like(noise)
    )


def associate(counts: Counts, mass: np.ndarray) -> Association:
    """Return the association of latents that fire as often as their mass is large."""
    num_fired = (100 * mass.sum(1)).astype(np.int64)
    return relate(counts, mass, num_fired)


def relate(counts: Counts, mass: np.ndarray, num_fired: np.ndarray) -> Association:
    return co_occurrence.association(
        counts,
        mass=np.repeat(mass[None], NUM_BLOCKS, axis=0),
        num_fired=np.repeat(num_fired[None], NUM_BLOCKS, axis=0),
        num_permutations=200,
        seed=0,
    )


def random_together() -> np.ndarray:
    generator = np.random.default_rng(1)
    upper = np.triu(generator.random((NUM_LABELS, NUM_LABELS)), 1)
    return 10 * (upper + upper.T) + 20 * np.eye(NUM_LABELS)


def merging(together: np.ndarray) -> np.ndarray:
    """Return a latent for each label, and for each pair one of the given mass."""
    own = 30 * np.eye(NUM_LABELS)
    pairs = [
        together[i, j] * (np.eye(NUM_LABELS)[i] + np.eye(NUM_LABELS)[j])
        for i in range(NUM_LABELS)
        for j in range(i)
    ]
    return np.concatenate([own, pairs])


def test_windows_and_neighbours_are_counted_by_hand() -> None:
    labels = np.array([[0, 0, 1, 2], [1, -1, 0, 0]])
    document = np.array([[0, 0, 0, 1], [1, 1, 1, 1]])
    found = co_occurrence.count(
        labels, document, num_labels=3, num_blocks=3, window_tokens=2
    )
    # Document 0: {0}, {1}. Document 1: {2}, {1}, {0}; windows do not cross rows.
    assert found.num_windows.tolist() == [2, 3, 0]
    assert found.windows[0].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert found.windows[1].tolist() == np.eye(3).tolist()
    assert found.neighbours[0].tolist() == [[2, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert found.neighbours[1].tolist() == [[2, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_labels_of_one_window_occur_together() -> None:
    found = co_occurrence.count(
        np.array([[0, 1, 1, 2]]),
        np.zeros((1, 4), dtype=np.int64),
        num_labels=3,
        num_blocks=1,
        window_tokens=3,
    )
    assert found.windows[0].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_counts_are_those_of_the_parts_whatever_these_are() -> None:
    generator = np.random.default_rng(4)
    labels = generator.integers(-1, 3, (700, 5))
    document = np.sort(generator.integers(0, 40, labels.size)).reshape(labels.shape)

    def counted(part: slice) -> Counts:
        return co_occurrence.count(
            labels[part], document[part], num_labels=3, num_blocks=7, window_tokens=2
        )

    cuts = [0, 1, 300, 700]
    parts = [counted(slice(*pair)) for pair in itertools.pairwise(cuts)]
    for name, whole in counted(slice(None))._asdict().items():
        summed = np.sum([getattr(part, name) for part in parts], axis=0)
        assert np.array_equal(summed, whole), name


def test_latents_that_merge_what_occurs_together_correlate() -> None:
    together = random_together()
    counts = counts_of(together)
    found = associate(counts, merging(together))
    assert found.correlation.value is not None
    assert found.correlation.value > 0.9
    assert found.p_value is not None
    assert found.p_value < 0.01
    assert found.num_pairs == NUM_LABELS * (NUM_LABELS - 1) // 2


def test_latents_that_keep_labels_apart_say_nothing() -> None:
    found = associate(counts_of(random_together()), np.eye(NUM_LABELS))
    assert found.correlation == (None, None, None)
    assert found.partial == (None, None, None)
    assert found.p_value is None


def test_what_neighbours_explain_is_not_counted_twice() -> None:
    together = random_together()
    noise = np.random.default_rng(2).uniform(0, 5, together.shape)
    beside = together + np.triu(noise, 1) + np.triu(noise, 1).T
    found = associate(counts_of(together, beside), merging(beside))
    assert found.correlation.value is not None
    assert found.partial.value is not None
    assert abs(found.partial.value) < found.correlation.value / 2


def test_the_scale_of_a_latent_changes_nothing() -> None:
    together = random_together()
    mass = merging(together)
    scaled = mass * np.random.default_rng(3).uniform(0.1, 10, (len(mass), 1))
    fired = np.arange(1, len(mass) + 1)
    plain, other = (relate(counts_of(together), each, fired) for each in (mass, scaled))
    assert plain.correlation.value == pytest.approx(other.correlation.value)


def test_chance_is_rarely_significant() -> None:
    generator = np.random.default_rng(4)
    p_values = []
    for _ in range(50):
        mass = generator.gamma(0.3, size=(40, NUM_LABELS))
        upper = np.triu(generator.random((NUM_LABELS, NUM_LABELS)), 1)
        together = 10 * (upper + upper.T) + 20 * np.eye(NUM_LABELS)
        p_values.append(associate(counts_of(together), mass).p_value or 0)
    assert np.mean(np.array(p_values) < 0.05) < 0.15
