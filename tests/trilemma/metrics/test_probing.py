"""Tests of k-sparse probing: what it finds, and that nothing leaks between folds."""

import numpy as np
import pytest
from scipy import sparse

from trilemma.metrics import probing
from trilemma.metrics.probing import KS, Probes

NUM_ROWS, WIDTH = 1200, 60


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def document() -> np.ndarray:
    return np.arange(NUM_ROWS) // 10


@pytest.fixture
def acts(generator: np.random.Generator) -> np.ndarray:
    shape = (NUM_ROWS, WIDTH)
    return generator.random(shape) * (generator.random(shape) < 0.2)


def probed(
    acts: np.ndarray,
    labels: np.ndarray,
    document: np.ndarray,
    *,
    ks: tuple[int | None, ...] = KS,
) -> Probes:
    return probing.probe(
        sparse.csr_array(acts), labels[:, None], document, ks=ks, seed=0
    )


def test_one_latent_tells_what_it_fires_for(
    acts: np.ndarray, document: np.ndarray
) -> None:
    found = probed(acts, acts[:, 7] > 0, document)
    assert found.auroc[0, 0] == pytest.approx(1)
    assert (found.auroc > 0.98).all()


def test_two_latents_tell_what_either_fires_for_and_one_does_not(
    acts: np.ndarray, document: np.ndarray
) -> None:
    found = probed(acts, (acts[:, 7] > 0.1) | (acts[:, 8] > 0.1), document).auroc[0]
    assert found[0] < 0.85
    assert found[1] > 0.95
    assert found[-1] > 0.95


def test_random_labels_are_told_as_well_as_by_a_coin(
    acts: np.ndarray, document: np.ndarray, generator: np.random.Generator
) -> None:
    """Latents chosen on all rows would tell them: of 60, some fit by chance."""
    areas = [
        probed(acts, generator.random(NUM_ROWS) < 0.2, document, ks=(16,)).auroc[0, -1]
        for _ in range(8)
    ]
    assert abs(np.mean(areas) - 0.5) < 4 * np.std(areas) / 8**0.5


def test_what_tells_documents_apart_tells_nothing_of_new_ones(
    document: np.ndarray, generator: np.random.Generator
) -> None:
    """Rows of one document on both sides would let these latents name the class."""
    names = np.eye(120)[document]
    of_document = generator.random(120) < 0.5
    found = probed(names, of_document[document], document, ks=(None,)).auroc[0, -1]
    assert found == pytest.approx(0.5, abs=0.1)


def test_an_array_is_probed_as_its_sparse_form_is(
    acts: np.ndarray, document: np.ndarray
) -> None:
    labels = ((acts[:, 7] > 0.1) | (acts[:, 8] > 0.3))[:, None]
    given = probing.probe(acts, labels, document, ks=(2,), seed=0)
    found = probed(acts, labels[:, 0], document, ks=(2,))
    assert given.auroc == pytest.approx(found.auroc)
    assert given.left_out == pytest.approx(found.left_out)


@pytest.mark.parametrize("num_documents", [1, 2, probing.LEAST_DOCUMENTS - 1])
def test_a_class_in_too_few_documents_is_not_told(
    acts: np.ndarray, document: np.ndarray, num_documents: int
) -> None:
    labels = (acts[:, 7] > 0) & (document < num_documents)
    assert np.isnan(probed(acts, labels, document).auroc).all()


def test_a_class_in_just_enough_documents_is_in_every_fold(
    acts: np.ndarray, document: np.ndarray
) -> None:
    acts[np.arange(0, NUM_ROWS, 10), 7] = 1
    labels = (acts[:, 7] > 0) & (document < probing.LEAST_DOCUMENTS)
    found = probed(acts, labels, document)
    assert np.isfinite(found.auroc).all()
    assert np.isfinite(found.left_out).any()


def test_a_code_that_never_fires_tells_nothing(document: np.ndarray) -> None:
    labels = np.arange(NUM_ROWS) % 3 == 0
    found = probed(np.zeros((NUM_ROWS, 4)), labels, document)
    assert found.auroc == pytest.approx(np.full((1, 5), 0.5))


def test_the_area_under_the_curve_counts_ties_half() -> None:
    labels = np.array([True, True, False, False])
    assert probing.auroc(np.array([2.0, 1, 1, 0]), labels) == 7 / 8
