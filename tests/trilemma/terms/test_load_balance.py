"""Load balance: what it is of known codes, and what it does."""

from typing import Literal

import pytest
import torch
from torch import Tensor

from tests.trilemma.kinds.samples import BATCH, batch_of, kind_of, rows
from tests.trilemma.terms.training import trained
from trilemma.codes import Code
from trilemma.config.terms import LoadBalance, Terms
from trilemma.kinds.kind import Forward
from trilemma.terms import load_balance

Form = Literal["squared", "switch"]
FORMS: tuple[Form, ...] = ("squared", "switch")


def term(form: Form, acts: Tensor) -> Tensor:
    batch = batch_of(kind_of("relu"), rows(len(acts)))
    error = torch.zeros(())
    forward = Forward(batch.x, error, None, Code(acts, None))
    weights = {"b_enc": torch.zeros(acts.shape[1])}
    return load_balance.value(form, weights, batch, forward)


def value(form: Form, acts: Tensor) -> float:
    return float(term(form, acts))


@pytest.mark.parametrize(("form", "least"), [("squared", 0.0), ("switch", 1.0)])
def test_latents_that_fire_equally_have_the_least(form: Form, least: float) -> None:
    assert value(form, 3 * torch.eye(6)) == pytest.approx(least, abs=1e-6)


@pytest.mark.parametrize(("form", "most"), [("squared", 5.0), ("switch", 6.0)])
def test_one_latent_that_fires_alone_has_the_most(form: Form, most: float) -> None:
    acts = torch.zeros(4, 6)
    acts[:, 2] = 1.0
    assert value(form, acts) == pytest.approx(most)


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_in_which_nothing_fires_has_a_value(form: Form) -> None:
    assert value(form, torch.zeros(4, 6)) in (0.0, 1.0)


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_in_which_nothing_fires_has_no_huge_gradient(form: Form) -> None:
    acts = torch.zeros(4, 6, requires_grad=True)
    torch.autograd.backward(term(form, acts))
    assert acts.grad is not None
    assert float(acts.grad.abs().max()) <= 2.0


@pytest.mark.parametrize("form", FORMS)
def test_the_units_of_activations_do_not_matter(form: Form) -> None:
    acts = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).relu()
    assert value(form, 100 * acts) == pytest.approx(value(form, acts), rel=1e-5)


@pytest.mark.parametrize("kind", ["topk", "relu", "jumprelu", "gated"])
@pytest.mark.parametrize("form", FORMS)
def test_it_evens_how_often_latents_fire(form: Form, kind: str) -> None:
    chosen = Terms(load_balance=LoadBalance(coefficient=0.5, form=form))
    spread = []
    for terms in (chosen, None):
        acts = trained(kind, terms).export().encode(rows(8 * BATCH))
        density = (acts > 0).double().mean(0)
        spread.append(float(density.std() / density.mean()))
    assert spread[0] < 0.8 * spread[1]
