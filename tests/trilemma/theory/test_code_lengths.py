"""Tests of yardsticks for a rate."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trilemma.theory import code_lengths


def test_the_sae_of_mdl_saes() -> None:
    found = code_lengths.sparse_bound(65, value_bits=7, d_sae=25_000)
    assert found == pytest.approx(1404.63, abs=5e-3)


def test_writing_out_an_activation_of_gpt2_small() -> None:
    assert code_lengths.dense(768, value_bits=7) == 5376


def test_a_latent_for_every_sequence_by_the_formula_and_as_published() -> None:
    found = code_lengths.one_hot(value_bits=7, d_vocab=50_257, ctx=128)
    assert found == pytest.approx(2005.98, abs=5e-3)
    assert 7 * (found - 7) == pytest.approx(13_993, abs=0.5)


def test_a_latent_for_every_sequence_is_the_sparse_bound_of_one_latent() -> None:
    found = code_lengths.one_hot(value_bits=3, d_vocab=8, ctx=4)
    assert found == code_lengths.sparse_bound(1, value_bits=3, d_sae=8**4)


@pytest.mark.parametrize(
    ("p_parent", "p_child", "tree", "disjoint", "overlapping"),
    [
        (0.1, 0.05, 0.5690, 0.5728, 0.7554),
        (0.3, 0.1, 1.1568, 1.1909, 1.3503),
        (0.1, 0.01, 0.5159, 0.5173, 0.5498),
    ],
)
def test_a_child_costs_least_where_its_parent_is_active(
    p_parent: float,
    p_child: float,
    tree: float,
    disjoint: float,
    overlapping: float,
) -> None:
    found = code_lengths.tree(p_parent, p_child)
    assert found == pytest.approx(tree, abs=5.1e-5)
    apart = code_lengths.disjoint(p_parent, p_child)
    assert apart == pytest.approx(disjoint, abs=5.1e-5)
    both = code_lengths.overlapping(p_parent, p_child)
    assert both == pytest.approx(overlapping, abs=5.1e-5)


@given(st.floats(0.01, 0.99), st.floats(0, 1))
def test_a_tree_is_the_joint_entropy_and_never_dearer(
    p_parent: float, share: float
) -> None:
    p_child = p_parent * share
    found = code_lengths.tree(p_parent, p_child)
    outcomes = (p_child, p_parent - p_child, 1 - p_parent)
    joint = -sum(p * math.log2(p) for p in outcomes if p > 0)
    assert found == pytest.approx(joint, abs=1e-9)
    assert found <= code_lengths.disjoint(p_parent, p_child) + 1e-9
    assert found <= code_lengths.overlapping(p_parent, p_child) + 1e-9
