"""Merges planted in a code: which latents they join, and which measures follow."""

import pytest
import torch

from trilemma.proxies import planting, worlds
from trilemma.proxies.planting import Seen
from trilemma.proxies.worlds import PAIRS, Code


@pytest.fixture(scope="module")
def seen() -> dict[str, Seen]:
    """Return what is found of a monosemantic SAE, of which nothing else is known."""
    world = worlds.pairs(0.5)
    code = worlds.monosemantic(world)
    found = planting.follow(code, world._replace(concepts=None))
    return {each.measure: each for each in found}


def test_n_eff_follows_disjunctive_merges_and_not_conjunctive_ones(
    seen: dict[str, Seen],
) -> None:
    assert (seen["n_eff/null"].disjunctive or 0) > 0.9
    assert (seen["n_eff/null"].conjunctive or 0) < 0


def test_angles_follow_conjunctive_merges_and_not_disjunctive_ones(
    seen: dict[str, Seen],
) -> None:
    assert seen["c_dec"].conjunctive == 1
    assert seen["c_dec"].disjunctive is None


def test_measures_that_need_the_truth_are_left_out(seen: dict[str, Seen]) -> None:
    assert "participation" not in seen
    assert "monoscore" in seen


def test_conjunctions_join_what_fires_together() -> None:
    """Co-occurrence 0.8 makes a pair's common firings far more than chance's."""
    code = worlds.monosemantic(worlds.pairs(0.8))
    assert sorted(planting.that_co_fire(code)) == sorted(PAIRS)


def test_too_few_latents_leave_nothing_to_plant() -> None:
    world = worlds.pairs(0.5)
    code = worlds.monosemantic(world)
    found = planting.follow(Code(code.W_dec[:6], code.acts[:, :6]), world)
    assert {(each.conjunctive, each.disjunctive) for each in found} == {(None, None)}


def test_latents_that_never_fire_together_have_no_conjunctions() -> None:
    world = worlds.pairs(0.5)
    code = worlds.monosemantic(world)
    alone = torch.zeros_like(code.acts)
    alone[torch.arange(len(alone)), torch.arange(len(alone)) % 16] = 1
    found = planting.follow(Code(code.W_dec, alone), world)
    assert {each.conjunctive for each in found} == {None}
