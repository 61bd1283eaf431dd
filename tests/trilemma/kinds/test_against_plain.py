"""Losses and gradients of every kind equal those of the plain formulas in float64."""

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
from trilemma.config.saes import JumpReLU

VARIANCE = 5.0
# p annealing is at another power by the last step, and tested apart; the smooth count
# is held against its own formula below.
PLAIN = [
    name
    for name, config in CONFIGS.items()
    if not isinstance(config, JumpReLU) and name != "relu-annealed"
]
STRAIGHT_THROUGH = ["jumprelu", "jumprelu-target"]
# What is added to every pre-activation: with the second few are left above zero, and
# kinds that compute with all latents where many are on compute with pairs instead.
SHIFTS = [0.0, -5.0]
# Weights of the dimensions in the error; None: all are 1.
GAMMAS = [None, torch.linspace(0.2, 2.0, D_IN)]


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
) -> tuple[objective.Terms, dict[str, torch.Tensor]]:
    """Return the library's loss, and its gradient by weight."""
    kind = kind_of(name)
    weights = {k: v.requires_grad_() for k, v in start(name, shift).items()}
    batch = batch_of(kind, rows(BATCH))._replace(gamma=gamma)
    terms = objective.terms(kind, weights, batch, variance=VARIANCE)
    torch.autograd.backward(terms.loss)
    return terms, gradients_of(weights)


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
    )
    torch.autograd.backward(loss)
    return loss.detach(), gradients_of(weights)


def assert_near(found: torch.Tensor, wanted: torch.Tensor, key: str) -> None:
    # Of the whole tensor: near zero, a power below 1 blows rounding up.
    assert float((found - wanted).norm()) <= 1e-3 * float(wanted.norm()) + 1e-7, key


@pytest.mark.parametrize("gamma", GAMMAS, ids=["plain", "weighted"])
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("name", PLAIN)
def test_loss_and_gradients_equal_the_plain_formulas(
    name: str, shift: float, gamma: torch.Tensor | None
) -> None:
    terms, gradients = found(name, shift, gamma)
    loss, plain_gradients = expected(name, shift, gamma)
    torch.testing.assert_close(terms.loss.double(), loss, rtol=1e-5, atol=1e-6)
    for key, gradient in plain_gradients.items():
        assert_near(gradients[key], gradient, key)


@pytest.mark.parametrize("gamma", GAMMAS, ids=["plain", "weighted"])
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("name", STRAIGHT_THROUGH)
def test_jumprelu_has_the_gradients_of_its_paper(
    name: str, shift: float, gamma: torch.Tensor | None
) -> None:
    config = CONFIGS[name]
    assert isinstance(config, JumpReLU)
    _, gradients = found(name, shift, gamma)
    wanted = plain.jumprelu_gradients(
        config,
        {k: v.double() for k, v in start(name, shift).items()},
        rows(BATCH).double(),
        variance=VARIANCE,
        coefficient=kind_of(name).coefficient,
        gamma=1.0 if gamma is None else gamma.double(),
    )
    for key, gradient in wanted.items():
        assert_near(gradients[key], gradient, key)


@pytest.mark.parametrize("name", ["relu", "gated", "tree", "jumprelu"])
def test_both_ways_through_the_latents_are_tested(name: str) -> None:
    ways = [
        found(name, shift, None)[0].forward.code.support is None for shift in SHIFTS
    ]
    assert ways == [True, False]


def test_the_plain_formulas_know_every_weight() -> None:
    for name in PLAIN:
        _, gradients = expected(name, 0.0, None)
        assert any(value.abs().sum() > 0 for value in gradients.values())
        assert gradients["b_dec"].shape == (D_IN,)
