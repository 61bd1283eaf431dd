"""Values and gradients of every term equal those of its plain formula in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.trilemma.kinds.samples import (
    BATCH,
    CONFIGS,
    batch_of,
    disturbed,
    kind_of,
    rows,
)
from tests.trilemma.terms import plain
from trilemma import terms
from trilemma.config.terms import Incoherence, LoadBalance, Monosemanticity, Terms

PLAIN: dict[str, tuple[Terms, Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "incoherence": (
        Terms(incoherence=Incoherence(coefficient=1)),
        lambda acts, W_dec, x: plain.incoherence(W_dec),
    ),
    "squared": (
        Terms(load_balance=LoadBalance(coefficient=1)),
        lambda acts, W_dec, x: plain.squared(acts),
    ),
    "switch": (
        Terms(load_balance=LoadBalance(coefficient=1, form="switch")),
        lambda acts, W_dec, x: plain.switch(acts),
    ),
    "monosemanticity": (
        Terms(monosemanticity=Monosemanticity(coefficient=1)),
        lambda acts, W_dec, x: plain.monosemanticity(acts, x),
    ),
}
# Codes of all pairs and of a few, and one whose rows fire equally often; with 5.0 many
# latents fire on every row.
CODES = [("relu", 0.0), ("relu", 5.0), ("relu", -5.0), ("topk", 0.0)]


def start(name: str, shift: float) -> dict[str, Tensor]:
    weights = disturbed(CONFIGS[name], kind_of(name))
    return weights | {"b_enc": weights["b_enc"] + shift}


@pytest.mark.parametrize(("name", "shift"), CODES)
@pytest.mark.parametrize("term", PLAIN)
def test_value_and_gradients_equal_the_plain_formula(
    term: str, name: str, shift: float
) -> None:
    config, formula = PLAIN[term]
    kind, x = kind_of(name), rows(BATCH)
    weights = {k: v.requires_grad_() for k, v in start(name, shift).items()}
    batch = batch_of(kind, x)
    (added,) = terms.make(config, kind.forward, None)
    found = added.value(weights, batch, kind.forward(weights, batch))
    torch.autograd.backward(found)

    wide = {k: v.double().requires_grad_() for k, v in start(name, shift).items()}
    pre = (x.double() - wide["b_dec"]) @ wide["W_enc"] + wide["b_enc"]
    acts = pre.relu()
    if name == "topk":
        acts = acts * (pre >= pre.topk(2, dim=1).values[:, -1:])
    wanted = formula(acts, wide["W_dec"], x.double())
    torch.autograd.backward(wanted)

    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    for key, weight in weights.items():
        expected = wide[key].grad
        if expected is None or not bool(expected.any()):
            assert weight.grad is None or not bool(weight.grad.any()), key
        else:
            assert weight.grad is not None
            difference = float((weight.grad - expected).norm())
            assert difference <= 1e-4 * float(expected.norm()), key


def test_codes_of_both_forms_are_among_those_tested() -> None:
    forms = []
    for name, shift in CODES:
        kind = kind_of(name)
        code = kind.forward(start(name, shift), batch_of(kind, rows(BATCH))).code
        forms.append(code.support is None)
    assert forms == [True, True, False, False]
