"""Oracle SAEs: what merging saves and costs is known in closed form."""

import pytest
import torch
from torch import Tensor

from trilemma import toys
from trilemma.config.toys import Toy
from trilemma.metrics import polysemanticity
from trilemma.metrics.coders import Coder
from trilemma.toys import oracle

NUM = 16
PAIRS = [(i, i + 1) for i in range(0, NUM, 2)]
FEATURES = toys.features(Toy(num_features=NUM, d_in=20)).double()
BIAS = torch.linspace(-1, 1, 20, dtype=torch.float64)
CONCEPTS = oracle.Monosemantic(FEATURES, b_dec=BIAS, threshold=0.25)


def rows_of(*patterns: tuple[int, ...]) -> Tensor:
    """Return an activation for each set of concepts, all of magnitude 1."""
    present = torch.zeros(len(patterns), NUM, dtype=torch.float64)
    for row, pattern in enumerate(patterns):
        present[row, list(pattern)] = 1
    return present @ FEATURES + BIAS


def l0(coder: Coder, x: Tensor) -> list[int]:
    return (coder.encode(x) != 0).sum(1).tolist()


def distortion(coder: Coder, x: Tensor) -> list[float]:
    error: list[float] = (x - coder.decode(coder.encode(x))).square().sum(1).tolist()
    return error


def test_the_monosemantic_oracle_reads_magnitudes_and_nothing_else() -> None:
    magnitudes = torch.rand(50, NUM, dtype=torch.float64).clamp(min=0.3)
    magnitudes *= torch.rand(50, NUM) < 0.3
    acts = CONCEPTS.encode(magnitudes @ FEATURES + BIAS)
    torch.testing.assert_close(acts, magnitudes)


@pytest.mark.parametrize("kind", ["conjunctive", "disjunctive"])
def test_merging_nothing_is_monosemantic(kind: oracle.Merge) -> None:
    coder = oracle.merged(CONCEPTS, PAIRS, 0.0, kind)
    torch.testing.assert_close(coder.W_dec, FEATURES)
    x = rows_of((), (0,), (0, 1), (2, 5, 6))
    torch.testing.assert_close(coder.encode(x), CONCEPTS.encode(x))


def test_a_conjunctive_merge_saves_a_latent_where_both_are_present() -> None:
    coder = oracle.merged(CONCEPTS, PAIRS, 1.0, "conjunctive")
    x = rows_of((), (0,), (0, 1), (0, 1, 2, 3), (1, 2))
    assert l0(coder, x) == [0, 1, 1, 2, 2]
    assert distortion(coder, x) == pytest.approx([0] * 5, abs=1e-6)


def test_a_disjunctive_merge_loses_half_of_a_concept_that_is_alone() -> None:
    coder = oracle.merged(CONCEPTS, PAIRS, 1.0, "disjunctive")
    x = rows_of((), (0,), (0, 1), (0, 1, 2, 3), (1, 2))
    assert l0(coder, x) == [0, 1, 1, 2, 2]
    assert distortion(coder, x) == pytest.approx([0, 0.5, 0, 0, 1.0], abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "widths"),
    [("conjunctive", [16, 18, 20, 24]), ("disjunctive", [16, 14, 12, 8])],
)
def test_the_fraction_says_how_many_pairs_are_merged(
    kind: oracle.Merge, widths: list[int]
) -> None:
    coders = [oracle.merged(CONCEPTS, PAIRS, g, kind) for g in (0, 0.25, 0.5, 1)]
    assert [len(coder.W_dec) for coder in coders] == widths


@pytest.mark.parametrize("kind", ["conjunctive", "disjunctive"])
def test_merged_latents_take_part_in_two_features(kind: oracle.Merge) -> None:
    coder = oracle.merged(CONCEPTS, PAIRS, 0.5, kind)
    found = polysemanticity.matches(coder.W_dec, FEATURES).participation
    assert sorted(found) == pytest.approx([1] * (len(found) - 4) + [2] * 4)


def test_overlapping_atoms_are_matched_as_well_as_can_be() -> None:
    atoms = (*oracle.singles(range(NUM)), (0, 1), (1, 2), (2, 3))
    coder = oracle.Conjunctive(CONCEPTS, atoms)
    x = rows_of((0, 1, 2), (1, 2), (0, 1, 2, 3), (0, 3))
    assert l0(coder, x) == [2, 1, 2, 2]


def test_a_pattern_that_no_atoms_make_up_has_no_latent() -> None:
    coder = oracle.Conjunctive(CONCEPTS, ((0, 1), (2,)))
    x = rows_of((0,), (0, 1), (0, 1, 2), (0, 2))
    assert l0(coder, x) == [0, 1, 2, 0]
    assert distortion(coder, x) == pytest.approx([1, 0, 0, 2], abs=1e-6)


def test_unequal_magnitudes_cost_a_conjunction_half_their_squared_difference() -> None:
    coder = oracle.merged(CONCEPTS, PAIRS, 1.0, "conjunctive")
    x = 1.5 * FEATURES[:1] + 0.5 * FEATURES[1:2] + BIAS
    assert distortion(coder, x) == pytest.approx([0.5])


def test_a_budget_drops_what_exceeds_it() -> None:
    coder = oracle.Budgeted(CONCEPTS, k=2)
    x = rows_of((), (0,), (0, 1), (0, 1, 2, 3, 4))
    assert l0(coder, x) == [0, 1, 2, 2]
    assert distortion(coder, x) == pytest.approx([0, 0, 0, 3], abs=1e-6)
