"""Planted merges are the oracles' where concepts are known, and cost what is known."""

import pytest
import torch

from trilemma.proxies import merges, worlds
from trilemma.proxies.merges import Kind
from trilemma.proxies.worlds import PAIRS, Code
from trilemma.toys import oracle

CO_OCCURRENCE = 0.5
WORLD = worlds.pairs(CO_OCCURRENCE)
MONOSEMANTIC = worlds.monosemantic(WORLD)


def l0(code: Code) -> float:
    return float((code.acts != 0).sum(1).double().mean())


def distortion(code: Code) -> float:
    return float((WORLD.x - code.acts @ code.W_dec).square().sum(1).mean())


@pytest.mark.parametrize("kind", ["conjunctive", "disjunctive"])
@pytest.mark.parametrize("num_merged", [0, 3, 8])
def test_a_planted_merge_reconstructs_as_the_oracle_does(
    kind: Kind, num_merged: int
) -> None:
    concepts = oracle.Monosemantic(
        WORLD.concepts.directions, b_dec=torch.zeros(16), threshold=0.5
    )
    coder = oracle.merged(concepts, PAIRS, num_merged / len(PAIRS), kind)
    known = coder.encode(WORLD.x)
    planted = merges.merge(MONOSEMANTIC, PAIRS[:num_merged], kind)
    assert torch.equal(planted.acts != 0, known != 0)
    torch.testing.assert_close(planted.acts @ planted.W_dec, coder.decode(known))


def test_a_conjunction_saves_a_latent_wherever_both_concepts_are_present() -> None:
    merged = merges.merge(MONOSEMANTIC, PAIRS, "conjunctive")
    active = WORLD.concepts.active.reshape(-1, len(PAIRS), 2)
    saved = float(active.all(2).sum(1).double().mean())
    assert l0(MONOSEMANTIC) - l0(merged) == pytest.approx(saved)
    assert distortion(merged) == pytest.approx(0, abs=1e-10)


def test_a_disjunction_loses_half_of_every_concept_that_is_alone() -> None:
    merged = merges.merge(MONOSEMANTIC, PAIRS, "disjunctive")
    active = WORLD.concepts.active.reshape(-1, len(PAIRS), 2)
    alone = float((active.sum(2) == 1).sum(1).double().mean())
    assert distortion(merged) == pytest.approx(alone / 2)


@pytest.mark.parametrize("kind", ["conjunctive", "disjunctive"])
def test_a_merge_is_blind_to_how_latents_are_scaled(kind: Kind) -> None:
    factor = torch.linspace(0.5, 2, 16)
    scaled = Code(MONOSEMANTIC.W_dec / factor[:, None], MONOSEMANTIC.acts * factor)
    plain, other = (merges.merge(code, PAIRS, kind) for code in (MONOSEMANTIC, scaled))
    torch.testing.assert_close(plain.acts @ plain.W_dec, other.acts @ other.W_dec)
    assert torch.equal(plain.acts != 0, other.acts != 0)
