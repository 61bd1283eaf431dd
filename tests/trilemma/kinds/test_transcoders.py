"""Transcoders of every kind: formulas, gradients, goldens, invariants, recovery."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.trilemma.kinds import plain
from tests.trilemma.kinds.samples import (
    BATCH,
    CONFIGS,
    D_IN,
    D_SAE,
    batch_of,
    rows,
    start_of,
)
from tests.trilemma.kinds.test_against_plain import DEAD, TOLERANCES, VARIANCE
from tests.trilemma.kinds.transcoders import (
    D_OUT,
    TRANSCODERS,
    pairs,
    trained_by,
    transcoder_of,
)
from trilemma import kinds, objective
from trilemma.config.saes import SAEConfig

GOLDEN = Path(__file__).with_name("golden_transcoder_losses.json")
STEPS = 10
CENTER = torch.linspace(-1.0, 1.0, D_IN)
# The others choose from a batch while training, and by a threshold at inference.
EXACT = [name for name in TRANSCODERS if not name.startswith(("batch", "matryoshka"))]


def disturbed(config: SAEConfig, *, d_out: int = D_OUT) -> dict[str, Tensor]:
    """Return weights that are no special case: no zero bias, a skip that is not 0."""
    weights = objective.initial_weights(
        config, kinds.make(config), d_in=D_IN, b_dec=torch.zeros(d_out)
    )
    generator = torch.Generator().manual_seed(2)
    return {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in weights.items()
    }


def gradients(loss: Tensor, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, list(weights.values()))
    return dict(zip(weights, found, strict=True))


@pytest.mark.parametrize("name", TRANSCODERS)
def test_loss_and_gradients_equal_the_plain_formulas(name: str) -> None:
    config, (x, y) = TRANSCODERS[name], pairs(BATCH)
    kind, gamma = kinds.make(config), torch.linspace(0.2, 2.0, D_OUT)
    weights = {k: w.requires_grad_() for k, w in disturbed(config).items()}
    batch = batch_of(kind, x)._replace(
        y=y, center=CENTER, gamma=gamma, dead=torch.tensor(DEAD)
    )
    lost = objective.of_batch(kind, weights, batch, variance=VARIANCE)
    exact = {k: w.detach().double().requires_grad_() for k, w in weights.items()}
    loss = plain.loss(
        config,
        exact,
        (x - CENTER).double(),
        y=y.double(),
        variance=VARIANCE,
        coefficient=kind.coefficient,
        gamma=gamma.double(),
        dead=DEAD,
    )
    torch.testing.assert_close(lost.loss.double(), loss, rtol=1e-5, atol=1e-6)
    wanted = gradients(loss, exact)
    for key, grad in gradients(lost.loss, weights).items():
        error = float((grad - wanted[key]).norm())
        tolerance = TOLERANCES[name.removesuffix("-skip")]
        assert error <= tolerance * float(wanted[key].norm()) + 1e-7, key


@pytest.mark.parametrize("name", CONFIGS)
def test_a_transcoder_to_what_it_reads_centred_by_b_dec_is_the_sae(name: str) -> None:
    kind, x = kinds.make(CONFIGS[name]), rows(BATCH)
    weights = disturbed(CONFIGS[name], d_out=D_IN)
    own = batch_of(kind, x)
    other = own._replace(y=x, center=weights["b_dec"])
    losses = [
        objective.of_batch(kind, weights, each, variance=VARIANCE).loss
        for each in (own, other)
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", TRANSCODERS)
def test_the_first_ten_losses_are_the_golden_ones(name: str) -> None:
    x, y = pairs(STEPS * BATCH)
    member = transcoder_of(TRANSCODERS[name], x, y, STEPS, log_every_steps=1)
    losses = [row["loss"] for row in trained_by(member, x, y, STEPS).curve]
    assert losses == pytest.approx(json.loads(GOLDEN.read_text())[name], rel=2e-3)


@pytest.mark.parametrize("name", EXACT)
def test_what_is_exported_predicts_in_the_units_of_both_hooks(name: str) -> None:
    config, (x, y) = TRANSCODERS[name], pairs(STEPS * BATCH)
    member = trained_by(transcoder_of(config, x, y, STEPS), x, y, STEPS)
    batch = member.batch(x, y=y)
    with torch.no_grad():
        inside = objective.forward(member.kind.forward, member.weights, batch)
        found = member.export()(x)
    wanted = inside.x_hat / start_of(y).scale
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert found.shape == y.shape


@pytest.mark.parametrize("name", ["topk-skip", "jumprelu", "gated-skip", "batchtopk"])
def test_units_of_either_hook_change_nothing_but_the_units(name: str) -> None:
    config, (x, y) = TRANSCODERS[name], pairs(STEPS * BATCH)
    usual = trained_by(transcoder_of(config, x, y, STEPS), x, y, STEPS)
    # Powers of two, so that no bit is rounded otherwise.
    far, near = 64 * x, y / 8
    other = trained_by(transcoder_of(config, far, near, STEPS), far, near, STEPS)
    assert [row["loss"] for row in other.curve] == [row["loss"] for row in usual.curve]
    torch.testing.assert_close(8 * other.export()(far), usual.export()(x))


def test_without_a_decoder_bias_a_skip_leaves_none() -> None:
    x, y = pairs(STEPS * BATCH)
    config = TRANSCODERS["topk-skip"].model_copy(update={"decoder_bias": False})
    found = trained_by(transcoder_of(config, x, y, STEPS), x, y, STEPS).export()
    assert not found.b_dec.any()
    assert found.W_skip is not None and found.W_skip.any()


def test_a_skip_that_is_right_leaves_nothing_to_the_code() -> None:
    config, x = TRANSCODERS["topk-skip"], rows(BATCH)
    weights, kind = disturbed(config), kinds.make(config)
    weights |= {"W_dec": torch.zeros(D_SAE, D_OUT), "b_dec": torch.zeros(D_OUT)}
    y = (x - CENTER) @ weights["W_skip"]
    batch = batch_of(kind, x)._replace(y=y, center=CENTER)
    lost = objective.of_batch(kind, weights, batch, variance=VARIANCE)
    assert float(lost.fvu) == 0.0
    torch.testing.assert_close(lost.forward.x_hat, y)


@pytest.mark.parametrize("name", ["topk-skip", "jumprelu-skip", "gated-skip"])
def test_bfloat16_products_lead_the_same_way(name: str) -> None:
    config, (x, y) = TRANSCODERS[name], pairs(STEPS * BATCH)
    curves = [
        trained_by(
            transcoder_of(config, x, y, STEPS, precision=precision), x, y, STEPS
        ).curve
        for precision in ("float32", "bfloat16")
    ]
    losses = [[row["loss"] for row in curve] for curve in curves]
    assert losses[1] == pytest.approx(losses[0], rel=5e-2)


@pytest.mark.parametrize("name", ["topk-skip", "relu-annealed", "batchtopk"])
def test_a_transcoder_resumes_bit_for_bit(name: str) -> None:
    config, (x, y) = TRANSCODERS[name], pairs(STEPS * BATCH)
    whole = trained_by(transcoder_of(config, x, y, STEPS, ema_decay=0.9), x, y, STEPS)
    half = trained_by(transcoder_of(config, x, y, STEPS, ema_decay=0.9), x, y, 4)
    again = transcoder_of(config, x, y, STEPS, ema_decay=0.9)
    again.restore(half.state())
    found, wanted = trained_by(again, x, y, STEPS).state(), whole.state()
    assert all(torch.equal(found.tensors[k], t) for k, t in wanted.tensors.items())
    assert found.values == wanted.values
