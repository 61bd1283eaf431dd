"""Losses and gradients of every kind equal those of the plain formulas in float64."""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trilemma.kinds import plain
from tests.trilemma.kinds.samples import (
    BATCH,
    CONFIGS,
    D_IN,
    batch_of,
    disturbed,
    kind_of,
    rows,
)
from trilemma import objective

VARIANCE = 5.0
# What is added to every pre-activation: with the second few are left above zero, and
# kinds that compute with all latents where many are on compute with pairs instead.
SHIFTS = [0.0, -5.0]
# Weights of the dimensions in the error; None: all are 1.
GAMMAS = [None, torch.linspace(0.2, 2.0, D_IN)]
# AuxK and the pull on silent latents are about these.
DEAD = list(range(3, 15))
# Of the norm of a gradient. Annealing ends at a power of 0.1, whose slope at small
# activations blows up their rounding.
TOLERANCES = dict.fromkeys(CONFIGS, 1e-3) | {"relu-annealed": 1e-2}


def start(name: str, shift: float) -> dict[str, torch.Tensor]:
    weights = disturbed(CONFIGS[name], kind_of(name))
    return weights | {"b_enc": weights["b_enc"] + shift}


def gradients_of(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        key: torch.zeros_like(value) if value.grad is None else value.grad
        for key, value in weights.items()
    }


def found(
    name: str, shift: float, gamma: torch.Tensor | None
) -> tuple[objective.BatchLoss, dict[str, torch.Tensor]]:
    """Return the library's loss, and its gradient by weight."""
    kind = kind_of(name)
    weights = {k: v.requires_grad_() for k, v in start(name, shift).items()}
    batch = batch_of(kind, rows(BATCH))
    batch = batch._replace(gamma=gamma, dead=torch.tensor(DEAD))
    lost = objective.of_batch(kind, weights, batch, variance=VARIANCE)
    torch.autograd.backward(lost.loss)
    return lost, gradients_of(weights)


def expected(
    name: str, shift: float, gamma: torch.Tensor | None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the same by the plain formulas, in float64."""
    weights = {k: v.double().requires_grad_() for k, v in start(name, shift).items()}
    loss = plain.loss(
        CONFIGS[name],
        weights,
        rows(BATCH).double(),
        variance=VARIANCE,
        coefficient=kind_of(name).coefficient,
        gamma=1.0 if gamma is None else gamma.double(),
        dead=DEAD,
    )
    torch.autograd.backward(loss)
    return loss.detach(), gradients_of(weights)


def custom_backwards() -> set[str]:
    """Return the classes of the library that say how their gradient is computed.

    But those of several ranks, which test_ranks.py holds against one process.
    """
    return {
        node.name
        for path in Path("trilemma").rglob("*.py")
        if path.name != "ranks.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).endswith("autograd.Function") for base in node.bases)
    }


def names_in_graph(lost: objective.BatchLoss) -> set[str]:
    """Return the names of all operations that a loss came from."""
    names: set[str] = set()
    # `Any`: torch has no type for a node of its graph.
    left: list[Any] = [lost.loss.grad_fn]
    while left:
        node = left.pop()
        names.add(type(node).__name__)
        left += [below for below, _ in node.next_functions if below is not None]
    return names


@pytest.mark.parametrize("gamma", GAMMAS, ids=["plain", "weighted"])
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradients_equal_the_plain_formulas(
    name: str, shift: float, gamma: torch.Tensor | None
) -> None:
    lost, gradients = found(name, shift, gamma)
    loss, plain_gradients = expected(name, shift, gamma)
    torch.testing.assert_close(lost.loss.double(), loss, rtol=1e-5, atol=1e-6)
    for key, wanted in plain_gradients.items():
        error = float((gradients[key] - wanted).norm())
        assert error <= TOLERANCES[name] * float(wanted.norm()) + 1e-7, key


@pytest.mark.parametrize("name", ["relu", "gated", "tree", "jumprelu"])
def test_both_ways_through_the_latents_are_tested(name: str) -> None:
    ways = [
        found(name, shift, None)[0].forward.code.support is None for shift in SHIFTS
    ]
    assert ways == [True, False]


def test_every_backward_of_our_own_is_among_those_tested() -> None:
    names: set[str] = set()
    for name in CONFIGS:
        for shift in SHIFTS:
            names |= names_in_graph(found(name, shift, None)[0])
    assert {f"{name}Backward" for name in custom_backwards()} <= names
    assert custom_backwards()


def test_the_plain_formulas_have_a_gradient_in_every_weight() -> None:
    for name in CONFIGS:
        _, gradients = expected(name, 0.0, None)
        assert all(value.abs().sum() > 0 for value in gradients.values()), name
