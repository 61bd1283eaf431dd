"""Tests of merging: planted pairs whose mutual information is known."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.trilemma.metrics.batches import cut
from trilemma.metrics import merging, partners
from trilemma.metrics.partners import Firings
from trilemma.theory import splitting
from trilemma.theory.supports import Supports, pair

NUM_ROWS = 40_000
ROWS_PER_DOCUMENT = 100


def sampled(blocks: list[Supports], *, num_rows: int = NUM_ROWS) -> Tensor:
    """Return codes in which the concepts of each block are latents of size one."""
    generator = np.random.default_rng(0)
    parts = [
        block.present[
            generator.choice(len(block.probability), num_rows, p=block.probability)
        ]
        for block in blocks
    ]
    return torch.from_numpy(np.concatenate(parts, 1)).float()


def documents(acts: Tensor) -> np.ndarray:
    return np.arange(len(acts)) // ROWS_PER_DOCUMENT


def measured(
    acts: Tensor, *, document: np.ndarray | None = None, sizes: list[int] | None = None
) -> merging.Merging:
    document = documents(acts) if document is None else document
    found = merging.Merging(d_sae=acts.shape[1], device=acts.device)
    for batch in cut(acts, document, sizes or [len(acts)]):
        found.add(batch)
    return found


def columns(acts: Tensor) -> dict[str, np.ndarray]:
    found = measured(acts)
    return merging.columns(found.pairs(), found.counts())


def value(found: merging.Merging, name: str) -> float:
    scalar = merging.scalars(found.pairs(), found.counts())[name].value
    assert scalar is not None
    return scalar


# PMI of 2.3 and 1.6 nats, and 0.4, which is not enough; then two by themselves.
PLANTED = [pair(0.05, 0.05, 0.025), pair(0.1, 0.08, 0.04), pair(0.1, 0.1, 0.015)]
ALONE = [
    Supports.of({(): 0.9, (0,): 0.1}, num_concepts=1),
    Supports.of({(): 0.97, (0,): 0.03}, num_concepts=1),
]


def test_planted_pairs_are_found_with_their_mutual_information() -> None:
    found = columns(sampled(PLANTED + ALONE))
    for index, expected in enumerate(PLANTED[:2]):
        first, second = 2 * index, 2 * index + 1
        assert found["partner"][[first, second]].tolist() == [second, first]
        p = expected.pairwise
        for latent in (first, second):
            pmi = splitting.pmi_nats(p[0, 0], p[1, 1], p[0, 1])
            assert found["partner_pmi"][latent] == pytest.approx(float(pmi), abs=0.1)
            saved = splitting.saved_bits(p[0, 0], p[1, 1], p[0, 1])
            assert found["partner_saved_bits"][latent] == pytest.approx(
                float(saved), rel=0.15
            )


def test_latents_below_one_nat_have_no_partner() -> None:
    found = columns(sampled(PLANTED + ALONE))
    for name in ("partner", "partner_pmi", "partner_saved_bits"):
        assert np.isnan(found[name][4:]).all(), name


def test_the_whole_counts_each_pair_once_and_half_the_latents() -> None:
    found = measured(sampled(PLANTED + ALONE))
    saved = columns(sampled(PLANTED + ALONE))["partner_saved_bits"]
    assert value(found, "mergeable_fraction") == 4 / 8
    assert value(found, "merging_saved_bits") == pytest.approx(saved[0] + saved[2])


def test_pairs_are_counted_on_documents_that_did_not_choose_them() -> None:
    acts = sampled(PLANTED)
    counts = measured(acts).counts()
    rest = acts[documents(acts) % 2 == 1].bool()
    assert counts.num_tokens.sum() == len(rest)
    assert counts.num_fired.sum(0).tolist() == rest.sum(0).tolist()
    assert counts.with_best.sum(0)[0] == int((rest[:, 0] & rest[:, 1]).sum())


def test_what_is_measured_fills_as_many_blocks_as_it_has_documents() -> None:
    """Documents are of all sizes, and sequences of all documents come mixed."""
    document = np.random.default_rng(0).permutation(np.repeat(np.arange(31), 40))
    acts = sampled(PLANTED, num_rows=len(document))
    counts = measured(acts, document=document).counts()
    assert counts.num_tokens.tolist() == [40] * 15 + [0] * 5


def test_tokens_beyond_the_choice_are_measured_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(merging, "_MOST_ROWS", 950)
    acts = sampled(PLANTED, num_rows=4000)
    found = measured(acts, sizes=[300] * 13 + [100])
    assert found.counts().num_tokens.sum() == 2000
    chosen = acts[:950][documents(acts)[:950] % 2 == 0]
    expected = partners.chosen(firings(chosen), num_rows=len(chosen), d_sae=6)
    assert found.pairs().best.tolist() == expected.best.tolist()


def test_latents_that_overlap_are_merged_with_one_partner_alone() -> None:
    chain = Supports.of(
        {(): 0.85, (0, 1): 0.05, (1, 2): 0.04, (2, 3): 0.05, (0,): 0.01},
        num_concepts=4,
    )
    pairs = measured(sampled([chain])).pairs()
    assert pairs.matched.tolist() == [1, 0, 3, 2]


def test_a_latent_whose_best_partner_is_taken_gets_another() -> None:
    star = Supports.of(
        {(): 0.82, (2, 3): 0.08, (0, 2): 0.04, (1, 2): 0.04, (0, 1): 0.02},
        num_concepts=4,
    )
    pairs = measured(sampled([star])).pairs()
    assert pairs.best.tolist() == [2, 2, 3, 2]
    assert pairs.matched.tolist() == [1, 0, 3, 2]


def test_rows_of_different_batches_are_not_taken_for_one() -> None:
    acts = torch.zeros(2000, 2)
    acts[:500:5, 0] = 1
    acts[500:1000:5, 1] = 1
    pairs = measured(acts, sizes=[500] * 4).pairs()
    assert pairs.best.tolist() == [0, 1]


def test_independent_latents_have_nothing_to_merge() -> None:
    alone = [Supports.of({(): 1 - p, (0,): p}, num_concepts=1) for p in (0.1, 0.2, 0.3)]
    found = measured(sampled(alone))
    assert value(found, "mergeable_fraction") == 0
    assert value(found, "merging_saved_bits") == 0


@pytest.mark.parametrize("density", [2e-3, 0.05])
def test_latents_that_meet_by_chance_are_not_partners(density: float) -> None:
    generator = torch.Generator().manual_seed(0)
    acts = (torch.rand(4000, 300, generator=generator) < density).float()
    paired = measured(acts).pairs().best != np.arange(300)
    assert paired.mean() < 0.01


def test_a_pair_that_does_not_last_counts_against_the_saving() -> None:
    acts = sampled([pair(0.05, 0.05, 0.0)])
    chooses = torch.from_numpy(documents(acts) % 2 == 0)
    acts[chooses, 1] = acts[chooses, 0]
    acts[150, :] = 1
    found = measured(acts)
    assert found.pairs().best.tolist() == [1, 0]
    assert value(found, "mergeable_fraction") == 0
    assert value(found, "merging_saved_bits") < 0


def test_the_interval_holds_the_planted_value() -> None:
    found = measured(sampled(PLANTED))
    bits = merging.scalars(found.pairs(), found.counts())["merging_saved_bits"]
    expected = sum(
        float(splitting.saved_bits(*part.marginals, part.pairwise[0, 1]))
        for part in PLANTED[:2]
    )
    assert bits.ci_low is not None and bits.ci_high is not None
    assert bits.ci_low < expected < bits.ci_high
    assert bits.ci_high - bits.ci_low < 0.3 * expected


def test_batches_leave_no_trace() -> None:
    acts = sampled(PLANTED, num_rows=2000)
    whole, parts = measured(acts), measured(acts, sizes=[1, 7, 992, 64, 936])
    assert all(map(np.array_equal, whole.pairs(), parts.pairs()))
    assert all(map(np.array_equal, whole.counts(), parts.counts()))


def test_the_choice_ends_where_the_firings_become_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(merging, "_MOST_PAIRS", 9 * 10 + 3)
    acts = torch.ones(100, 3)
    acts[20:, 0] = 0  # of the rows that choose the first ten alone are in the choice
    found = measured(acts, document=np.arange(100))
    assert found.counts().num_tokens.sum() == 50
    expected = partners.chosen(firings(torch.ones(10, 3)), num_rows=10, d_sae=3)
    assert found.pairs().best.tolist() == expected.best.tolist()


def firings(acts: Tensor) -> Firings:
    row, latent = acts.nonzero(as_tuple=True)
    return Firings(row.int().numpy(), latent.int().numpy())


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([1, 7, 10_000]))
def test_the_best_partner_is_the_best_of_all(
    seed: int, d_sae: int, block_pairs: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    acts = (torch.rand(60, d_sae, generator=generator) < 0.25).float()
    acts[:, : d_sae // 2] *= acts[:, -(d_sae // 2) or d_sae :]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partners, "_BLOCK_PAIRS", block_pairs)
        patch.setattr(partners, "_LEAST_ERRORS", 0)
        found = partners.chosen(firings(acts), num_rows=60, d_sae=d_sae)
    together = (acts.T @ acts).double().numpy() / 60
    p = together.diagonal()
    saved = splitting.saved_bits(p[:, None], p[None, :], together)
    np.fill_diagonal(saved, 0)
    for latent in range(d_sae):
        best = found.best[latent]
        assert saved[latent, best] == pytest.approx(max(saved[latent].max(), 0))


def test_one_document_that_chooses_leaves_none_to_measure() -> None:
    acts = sampled(PLANTED, num_rows=200)
    found = measured(acts, document=np.zeros(200, np.int64))
    for scalar in merging.scalars(found.pairs(), found.counts()).values():
        assert scalar.value is None
        assert scalar.reason == "no document was left to measure pairs on"


def test_of_two_documents_there_is_no_interval() -> None:
    acts = sampled(PLANTED)
    found = measured(acts, document=np.arange(NUM_ROWS) % 2)
    scalar = merging.scalars(found.pairs(), found.counts())["merging_saved_bits"]
    assert scalar.value is not None
    assert (scalar.ci_low, scalar.ci_high) == (None, None)


def test_a_code_that_never_fires_has_nothing_to_merge() -> None:
    found = measured(torch.zeros(200, 5))
    for scalar in merging.scalars(found.pairs(), found.counts()).values():
        assert (scalar.value, scalar.reason) == (None, "no latent fired")


def test_one_document_of_one_token_is_no_error() -> None:
    found = measured(torch.ones(1, 2))
    for scalar in merging.scalars(found.pairs(), found.counts()).values():
        assert scalar.value is None


def test_the_method_says_where_the_matching_is_greedy() -> None:
    found = measured(torch.eye(4).repeat(100, 1))
    for is_heaviest, word in ((True, "maximum-weight"), (False, "greedy")):
        pairs = found.pairs()._replace(is_heaviest=is_heaviest)
        bits = merging.scalars(pairs, found.counts())["merging_saved_bits"]
        assert word in bits.method
