"""Golden rows: what must be said of SAEs of a toy that are known to be right."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trilemma.metrics.given import one_sequence
from trilemma import toys
from trilemma.config.toys import FeatureTree, Toy
from trilemma.metrics import known_scalars, recovery
from trilemma.metrics.baseline import Rows
from trilemma.metrics.coders import Coder
from trilemma.metrics.disentanglement import Counts
from trilemma.metrics.intervals import NUM_BLOCKS
from trilemma.metrics.known_features import KnownFeatures
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.streaming import stream
from trilemma.toys import oracle

NUM = 4096
CTX = 64
LOOSE = Toy(num_features=16, d_in=20, density=0.1, magnitude="constant", ctx=CTX)
PAIRED = LOOSE.model_copy(update={"co_occurrence": 0.5})
TREES = LOOSE.model_copy(update={"tree": FeatureTree(branching=1), "density": 0.3})


@dataclass
class Forgetful:
    """A coder whose latents are silent in a share of the rows, by chance."""

    whole: Coder

    @property
    def W_dec(self) -> Tensor:
        return self.whole.W_dec

    def encode(self, x: Tensor) -> Tensor:
        acts = self.whole.encode(x)
        generator = torch.Generator().manual_seed(len(x))
        return acts * (torch.rand(acts.shape, generator=generator) < 0.7)

    def decode(self, acts: Tensor) -> Tensor:
        return self.whole.decode(acts)


@dataclass
class AlwaysOn:
    """A coder whose latents all fire on every row."""

    whole: Coder

    @property
    def W_dec(self) -> Tensor:
        return self.whole.W_dec

    def encode(self, x: Tensor) -> Tensor:
        return torch.ones(len(x), len(self.W_dec))

    def decode(self, acts: Tensor) -> Tensor:
        return self.whole.decode(acts)


@dataclass
class Silenced:
    """A coder some of whose latents never fire."""

    whole: Coder
    latents: Iterable[int]

    @property
    def W_dec(self) -> Tensor:
        return self.whole.W_dec

    def encode(self, x: Tensor) -> Tensor:
        acts = self.whole.encode(x).clone()
        acts[:, list(self.latents)] = 0
        return acts

    def decode(self, acts: Tensor) -> Tensor:
        return self.whole.decode(acts)


def concepts(toy: Toy) -> oracle.Monosemantic:
    return oracle.Monosemantic(toys.features(toy), toys.bias(toy), threshold=0.25)


def rows(toy: Toy, sizes: Iterable[int], kept: slice = slice(None)) -> Iterable[Rows]:
    """Yield held-out rows in batches of some sizes, of each only those kept."""
    start = 0
    for size in sizes:
        position = np.arange(start, start + size)[kept]
        x = toys.sample(toy, split="eval", start=start, num=size).x[kept]
        yield one_sequence(x, position // CTX, position)
        start += size


def known_of(coder: Coder, toy: Toy, sizes: Iterable[int] = (NUM,)) -> KnownFeatures:
    known = KnownFeatures(coder, toy)
    stream(coder, rows(toy, sizes), [known])
    return known


def measure(coder: Coder, toy: Toy) -> dict[str, Scalar]:
    known = known_of(coder, toy)
    live = known.total().fired > 0
    found = known_scalars.scalars(known, live=live, seed=0)
    json.dumps([scalar._asdict() for scalar in found.values()], allow_nan=False)
    for scalar in found.values():
        assert (scalar.value is None) == (scalar.reason is not None)
    return found


def values(coder: Coder, toy: Toy) -> dict[str, float | None]:
    return {name: scalar.value for name, scalar in measure(coder, toy).items()}


def test_the_true_dictionary_scores_one_everywhere() -> None:
    found = values(concepts(LOOSE), LOOSE)
    assert found["f1_gap"] == 0
    for name in ("mcc", "uniqueness", "gt_recall"):
        assert found[name] == pytest.approx(1, abs=1e-6), name
    # Independent features share a little information by chance in a sample.
    for name in ("mig", "mig_latent", "disentanglement", "completeness"):
        assert found[name] == pytest.approx(1, abs=0.02), name


def test_duplicates_halve_uniqueness_and_leave_recall() -> None:
    # The same atoms, of which the second is told apart by its name alone.
    twice = oracle.Disjunctive(concepts(LOOSE), oracle.singles([*range(16)] * 2))
    found = values(twice, LOOSE)
    assert found["uniqueness"] == 0.5
    assert found["gt_recall"] == 1
    assert found["mcc"] == pytest.approx(1, abs=1e-6)
    assert found["mig"] == pytest.approx(0, abs=1e-9)


def test_half_a_dictionary_halves_recall_and_leaves_the_matching_perfect() -> None:
    half = oracle.Disjunctive(concepts(LOOSE), oracle.singles(range(8)))
    found = values(half, LOOSE)
    assert found["gt_recall"] == 0.5
    assert found["mcc"] == pytest.approx(1, abs=1e-6)
    assert found["uniqueness"] == 1


def test_conjunctions_have_the_f1_that_their_firing_rates_give() -> None:
    pairs = [(i, i + 1) for i in range(0, 16, 2)]
    merged = oracle.merged(concepts(PAIRED), pairs, 1.0, "conjunctive")
    p, both = 0.1, 0.05
    alone = 2 * (p - both) / (2 * p - both)
    together = 2 * both / (p + both)
    weight = both / (both + 2 * (p - both))
    expected = 1 - (1 - weight) * alone - weight * together
    found = values(merged, PAIRED)
    assert found["f1_gap"] == pytest.approx(expected, abs=0.01)
    assert found["co_activation"] == 0


def test_pairs_of_the_true_dictionary_fire_together_whenever_both_are_present() -> None:
    found = measure(concepts(PAIRED), PAIRED)
    assert found["co_activation"].value == 1
    assert found["hedge_gt"].value == pytest.approx(0, abs=1e-6)
    assert found["absorb_gt"].reason == "the toy has not two trees"


def test_a_child_that_takes_its_parents_place_is_absorption() -> None:
    atoms = [((i,), (i, i + 1)) for i in range(0, 16, 2)]
    absorbing = oracle.Conjunctive(
        concepts(TREES), tuple(atom for pair in atoms for atom in pair)
    )
    found = measure(absorbing, TREES)
    assert found["absorb_gt"].value == 1
    assert found["co_activation"].value == 0


def test_the_true_dictionary_of_a_tree_absorbs_nothing() -> None:
    found = values(concepts(TREES), TREES)
    assert found["absorb_gt"] == 0
    assert found["co_activation"] == 1


def test_a_parent_silent_at_random_absorbs_no_more_beside_its_child() -> None:
    found = measure(Forgetful(concepts(TREES)), TREES)["absorb_gt"]
    assert found.ci_low is not None and found.ci_high is not None
    assert found.ci_low < 0 < found.ci_high


def test_absorption_has_no_control_in_a_single_tree() -> None:
    one = TREES.model_copy(update={"tree": FeatureTree(branching=15)})
    assert measure(concepts(one), one)["absorb_gt"].value is None


def test_a_latent_that_leans_towards_its_partner_hedges_by_that_cosine() -> None:
    V = toys.features(PAIRED)
    partner = V.view(8, 2, -1).flip(1).reshape(16, -1)
    leaning = oracle.Linear(0.8 * V + 0.6 * partner, toys.bias(PAIRED))
    assert values(leaning, PAIRED)["hedge_gt"] == pytest.approx(0.6, abs=1e-5)


def test_hedging_is_beyond_the_cosine_of_the_features_themselves() -> None:
    crowded = PAIRED.model_copy(update={"d_in": 8})
    exact = oracle.Linear(toys.features(crowded), toys.bias(crowded))
    assert values(exact, crowded)["hedge_gt"] == pytest.approx(0, abs=1e-6)


def test_random_directions_match_as_well_as_the_null_says() -> None:
    generator = torch.Generator().manual_seed(7)
    W = torch.nn.functional.normalize(torch.randn(24, 20, generator=generator), dim=1)
    found = measure(oracle.Linear(W, toys.bias(LOOSE)), LOOSE)
    null, spread = found["mcc_null"], recovery.null_mcc(24, W[:16], seed=0).std()
    assert found["mcc"].value == pytest.approx(null.value, abs=3 * float(spread))
    assert null.ci_low is not None and null.ci_high is not None
    assert null.ci_low < float(null.value or 0) < null.ci_high < 0.7


def test_untied_features_have_nothing_to_absorb_hedge_or_fire_together() -> None:
    found = measure(concepts(LOOSE), LOOSE)
    for name in ("absorb_gt", "hedge_gt", "co_activation"):
        assert found[name].value is None


def test_a_silent_sae_has_reasons_and_no_numbers() -> None:
    silent = oracle.Monosemantic(toys.features(TREES), toys.bias(TREES), threshold=9.0)
    found = measure(silent, TREES)
    assert not [name for name, scalar in found.items() if scalar.value is not None]
    for name in ("mcc", "f1_gap", "absorb_gt", "co_activation", "hedge_gt"):
        assert found[name].reason == "no latent fires", name


def test_latents_that_fire_on_every_row_are_not_called_silent() -> None:
    always = oracle.Linear(torch.zeros(3, 20), b_dec=torch.zeros(20))
    found = measure(AlwaysOn(always), LOOSE)
    assert found["f1_gap"].value is not None
    for name in ("disentanglement", "completeness"):
        assert found[name].reason == "firings tell nothing of features", name


def test_pairs_with_a_latent_that_never_fires_are_left_out() -> None:
    mute = Silenced(concepts(PAIRED), latents=range(0, 8, 2))
    found = measure(mute, PAIRED)["co_activation"]
    assert found.value == 1
    assert found.n < (measure(concepts(PAIRED), PAIRED)["co_activation"].n or 0)


def test_the_control_of_absorption_needs_a_latent_of_the_other_child() -> None:
    """Features 0 and 1 are a tree; the child of the next one, 3, has no latent."""
    kept = [index for index in range(16) if index != 3]
    few = oracle.Disjunctive(concepts(TREES), oracle.singles(kept))
    for coder in (few, Silenced(concepts(TREES), latents=[3])):
        known = known_of(coder, TREES).pair_counts().control.sum()
        whole = known_of(concepts(TREES), TREES).pair_counts().control.sum()
        active = toys.active(TREES, split="eval", start=0, num=NUM)
        first = (active[:, 0] & ~active[:, 1] & active[:, 3]).sum()
        own = (active[:, 2] & ~active[:, 3] & active[:, 5]).sum()
        assert whole - known == int(first + own)


@pytest.mark.parametrize("sizes", [[1, 7, 64, NUM - 72], [NUM // 64] * 64])
def test_batches_leave_no_trace(sizes: list[int]) -> None:
    coder = concepts(TREES)
    whole, parts = known_of(coder, TREES), known_of(coder, TREES, sizes)
    left_out = zip(whole.without_blocks(), parts.without_blocks(), strict=True)
    for one, other in ((whole.total(), parts.total()), *left_out):
        for a, b in zip(one, other, strict=True):
            assert np.array_equal(a, b)
    for a, b in zip(whole.pair_counts(), parts.pair_counts(), strict=True):
        assert np.array_equal(a, b)


def test_rows_that_do_not_count_leave_their_features_out() -> None:
    coder = concepts(LOOSE)
    known = KnownFeatures(coder, LOOSE)
    every_third = slice(1, None, 3)
    stream(coder, rows(LOOSE, [600, 600], every_third), [known])
    active = toys.active(LOOSE, split="eval", start=0, num=1200).view(2, 600, 16)
    expected = active[:, every_third].sum((0, 1))
    found = known.total()
    assert np.array_equal(found.present, expected.numpy())
    assert np.array_equal(found.fired, found.present)


def test_what_is_left_without_each_block_adds_up_to_all_but_one_of_all() -> None:
    known = known_of(concepts(LOOSE), LOOSE)
    left_out, total = list(known.without_blocks()), known.total()
    assert len(left_out) == NUM_BLOCKS
    for name in Counts._fields:
        kept = sum(getattr(part, name) for part in left_out)
        assert np.array_equal(kept, (NUM_BLOCKS - 1) * getattr(total, name))


def test_theory_says_what_a_budgeted_code_fires_and_loses() -> None:
    coder = oracle.Budgeted(concepts(LOOSE), k=2)
    known = known_of(coder, LOOSE)
    x = toys.sample(LOOSE, split="eval", start=0, num=NUM).x
    acts = coder.encode(x)
    lost = (x - coder.decode(acts)).square().sum(1).mean()
    fires = (acts != 0).sum(1).double().mean()
    found = known.budgeted(2)
    assert found == pytest.approx((float(fires), float(lost)), rel=1e-5)


def test_intervals_hold_the_truth_and_are_none_for_one_document() -> None:
    pairs = [(i, i + 1) for i in range(0, 16, 2)]
    merged = oracle.merged(concepts(PAIRED), pairs, 1.0, "disjunctive")
    scalar = measure(merged, PAIRED)["f1_gap"]
    # Fires on either of two: precision p / (2p - p12), recall 1.
    assert scalar.ci_low is not None and scalar.ci_high is not None
    assert scalar.ci_low < 1 - 2 * 0.1 / (0.15 + 0.1) < scalar.ci_high
    known = KnownFeatures(merged, PAIRED)
    stream(merged, rows(PAIRED, [CTX]), [known])
    live = np.ones(8, dtype=bool)
    alone = known_scalars.scalars(known, live=live, seed=0)["f1_gap"]
    assert alone.value is not None and alone.ci_low is None
