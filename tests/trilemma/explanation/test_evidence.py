"""Tests of evidence: verified silence, one example per document, jittered windows."""

import itertools

import numpy as np
import pytest

from trilemma.explanation.evidence import Evidence, collect, histogram
from trilemma.explanation.rows import Rows

GROUPS = ["top", *(f"stratum {i}" for i in range(1, 6)), "silent", "same_token"]


def random_acts(rows: Rows, density: float, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    acts = generator.exponential(size=len(rows.token)).astype(np.float32)
    return np.where(generator.uniform(size=len(acts)) < density, acts, 0)


def evidence_of(rows: Rows, acts: np.ndarray, *, latent: int = 4) -> Evidence:
    return collect(rows, acts, latent=latent, window=16, num_examples=6, seed=0)


@pytest.mark.parametrize("density", [0.001, 0.01, 0.1, 0.3])
def test_silent_windows_hold_no_firing_however_dense_the_latent(
    rows: Rows, density: float
) -> None:
    acts = random_acts(rows, density)
    evidence = evidence_of(rows, acts)
    silent = [e for e in evidence.examples if e.group in ("silent", "same_token")]
    assert all(not acts[e.start : e.stop].any() for e in silent)


def test_a_masked_row_that_fires_keeps_its_window_from_counting_as_silent(
    rows: Rows,
) -> None:
    acts = np.where(rows.is_counted, 0, 1).astype(np.float32)
    for example in evidence_of(rows, acts).examples:
        assert rows.is_counted[example.start : example.stop].all()


def test_masked_rows_show_no_activation(rows: Rows) -> None:
    evidence = evidence_of(rows, np.ones(len(rows.token), dtype=np.float32))
    assert not evidence.acts[~rows.is_counted].any()


def test_each_group_takes_one_example_from_a_document(rows: Rows) -> None:
    evidence = evidence_of(rows, random_acts(rows, 0.02))
    for group in GROUPS:
        documents = [
            rows.document[e.row] for e in evidence.examples if e.group == group
        ]
        assert len(documents) == len(set(documents)) == 6


def test_top_examples_are_the_strongest_of_different_documents(rows: Rows) -> None:
    evidence = evidence_of(rows, random_acts(rows, 0.02))
    peaks = [
        evidence.acts[rows.document == each].max() for each in np.unique(rows.document)
    ]
    top = [evidence.acts[e.row] for e in evidence.examples if e.group == "top"]
    assert top == sorted(peaks, reverse=True)[:6]


def test_no_row_is_shown_twice(rows: Rows) -> None:
    shown = [e.row for e in evidence_of(rows, random_acts(rows, 0.005)).examples]
    assert len(shown) == len(set(shown))


def test_strata_hold_equal_shares_of_the_firings_in_falling_order(rows: Rows) -> None:
    evidence = evidence_of(rows, random_acts(rows, 0.05))
    groups = {group.name: group for group in evidence.groups}
    strata = [groups[f"stratum {i}"] for i in range(1, 6)]
    sizes = [stratum.num_rows for stratum in strata]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == groups["top"].num_rows == np.count_nonzero(evidence.acts)
    for higher, lower in itertools.pairwise(strata):
        assert higher.low is not None and lower.high is not None
        assert higher.low >= lower.high
    for example in evidence.examples:
        if example.group.startswith("stratum"):
            group = groups[example.group]
            assert group.low is not None and group.high is not None
            assert group.low <= evidence.acts[example.row] <= group.high


def test_windows_stay_in_a_segment_and_hold_their_row(rows: Rows) -> None:
    for example in evidence_of(rows, random_acts(rows, 0.02)).examples:
        assert example.start <= example.row < example.stop
        assert rows.start[example.row] <= example.start
        assert example.stop <= rows.stop[example.row]
        length = rows.stop[example.row] - rows.start[example.row]
        assert example.stop - example.start == min(16, length)


def test_the_place_of_the_firing_token_in_its_window_is_jittered(rows: Rows) -> None:
    offsets = [
        example.row - example.start
        for latent in range(60)
        for example in evidence_of(
            rows, random_acts(rows, 0.02), latent=latent
        ).examples
        if rows.start[example.row] + 15 <= example.row <= rows.stop[example.row] - 16
    ]
    counts = np.bincount(offsets, minlength=16)
    assert len(counts) == 16
    expected = len(offsets) / 16
    assert ((counts - expected) ** 2 / expected).sum() < 45


def test_same_token_windows_hold_the_token_with_the_most_activation(rows: Rows) -> None:
    fires = (rows.token == 5) & (np.arange(len(rows.token)) % 2 == 0)
    evidence = evidence_of(rows, fires.astype(np.float32))
    same = [e for e in evidence.examples if e.group == "same_token"]
    assert same and all(rows.token[e.row] == 5 for e in same)


def test_a_short_supply_is_recorded(rows: Rows) -> None:
    acts = np.zeros(len(rows.token), dtype=np.float32)
    acts[np.flatnonzero(rows.is_counted)[[5, 7, 9000]]] = 1
    groups = {group.name: group for group in evidence_of(rows, acts).groups}
    assert (groups["top"].num_rows, groups["top"].num_available) == (3, 2)


def test_a_silent_latent_has_only_silent_windows(rows: Rows) -> None:
    evidence = evidence_of(rows, np.zeros(len(rows.token), dtype=np.float32))
    assert [group.name for group in evidence.groups] == GROUPS
    assert {example.group for example in evidence.examples} == {"silent"}
    assert evidence.groups[0].low is None


def test_the_histogram_counts_every_row_once() -> None:
    acts = np.array([0, 0, 1e-3, 0.99, 1.0, 1.01, 10, 37], dtype=np.float32)
    found = histogram(acts)
    assert found.zero == 2 and sum(found.counts) == 6
    for index, count in enumerate(found.counts):
        low, high = found.edges[index], found.edges[index + 1]
        assert count == ((acts >= low * 0.99999) & (acts < high * 0.99999)).sum()


def test_the_histogram_of_a_silent_latent_has_no_bins() -> None:
    assert histogram(np.zeros(7, dtype=np.float32)) == ((), (), 7)


def test_the_repr_counts_firings_and_examples(rows: Rows) -> None:
    evidence = evidence_of(rows, np.zeros(len(rows.token), dtype=np.float32))
    assert repr(evidence) == "Evidence(latent 4, 0 firings, 6 examples)"
