"""Crosscoders of every kind: formulas, goldens, invariants, recovery."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.trilemma.kinds.crosscoders import (
    CROSSCODERS,
    WIDTHS,
    activations,
    crosscoder_of,
    joint_of,
    trained_by,
)
from tests.trilemma.kinds.samples import BATCH, batch_of, disturbed, start_of
from trilemma import family, kinds, objective

GOLDEN = Path(__file__).with_name("golden_crosscoder_losses.json")
STEPS = 10
VARIANCE = 5.0
WEIGHED = "relu-decoder-norm"
# The others choose from a batch while training, and by a threshold at inference.
EXACT = [name for name in CROSSCODERS if not name.startswith(("batch", "matryoshka"))]


def plain_loss(
    weights: dict[str, Tensor], parts: list[Tensor], coefficient: float
) -> Tensor:
    """Return the loss of a crosscoder hook by hook, as the paper writes it.

    z = ReLU(sum over l of W_enc^l x^l + b); loss = sum over l of ||x^l - x_hat^l||^2
    + sum over i of z_i times the sum over l of ||W_dec,i^l||; x^l less b_dec^l, and
    the errors over the variance, are ours.
    """
    widths = list(WIDTHS.values())
    encoders = torch.split(weights["W_enc"], widths, 0)
    decoders = torch.split(weights["W_dec"], widths, 1)
    biases = torch.split(weights["b_dec"], widths)
    pre = weights["b_enc"]
    for x, W_enc, b_dec in zip(parts, encoders, biases, strict=True):
        pre = pre + (x - b_dec) @ W_enc
    acts = pre.relu()
    loss = acts.new_zeros(())
    for x, W_dec, b_dec in zip(parts, decoders, biases, strict=True):
        x_hat = acts @ W_dec + b_dec
        loss = loss + (x - x_hat).square().sum(1).mean() / VARIANCE
        norms = W_dec.square().sum(1).sqrt()
        loss = loss + coefficient / sum(widths) * (acts * norms).sum(1).mean()
    return loss


@pytest.mark.parametrize("shift", [0.0, -5.0])
def test_loss_and_gradients_equal_the_papers_hook_by_hook(shift: float) -> None:
    config, x = CROSSCODERS[WEIGHED], activations(BATCH)
    kind, joined = kinds.make(config), joint_of(x).joined(x)
    weights = disturbed(config, kind)
    weights["b_enc"] += shift
    ours = {k: w.clone().requires_grad_() for k, w in weights.items()}
    exact = {k: w.double().requires_grad_() for k, w in weights.items()}
    batch = batch_of(kind, joined)._replace(widths=tuple(WIDTHS.values()))
    found = objective.of_batch(kind, ours, batch, variance=VARIANCE).loss
    parts = list(torch.split(joined.double(), list(WIDTHS.values()), 1))
    wanted = plain_loss(exact, parts, kind.coefficient)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    gradients = [
        torch.autograd.grad(loss, list(of.values()))
        for loss, of in ((found, ours), (wanted, exact))
    ]
    for name, mine, theirs in zip(weights, *gradients, strict=True):
        error = float((mine - theirs).norm())
        assert error <= 1e-3 * float(theirs.norm()) + 1e-7, name


@pytest.mark.parametrize("name", [name for name in CROSSCODERS if name != WEIGHED])
def test_no_other_loss_asks_where_a_hook_ends(name: str) -> None:
    config, x = CROSSCODERS[name], activations(BATCH)
    kind = kinds.make(config)
    batch = batch_of(kind, joint_of(x).joined(x))
    losses = [
        objective.of_batch(kind, disturbed(config, kind), each, variance=VARIANCE).loss
        for each in (batch, batch._replace(widths=tuple(WIDTHS.values())))
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", CROSSCODERS)
def test_the_first_ten_losses_are_the_golden_ones(name: str) -> None:
    x = activations(STEPS * BATCH)
    member = crosscoder_of(CROSSCODERS[name], x, STEPS, log_every_steps=1)
    losses = [row["loss"] for row in trained_by(member, x, STEPS).curve]
    assert losses == pytest.approx(json.loads(GOLDEN.read_text())[name], rel=2e-3)


def test_each_hook_has_a_mean_squared_norm_of_its_width() -> None:
    x = activations(STEPS * BATCH)
    joined = joint_of(x).joined(x)
    for part, width in zip(
        torch.split(joined, list(WIDTHS.values()), 1), WIDTHS.values(), strict=True
    ):
        assert start_of(part).mean_squared_norm == pytest.approx(width)


def test_parts_of_joined_rows_are_the_activations() -> None:
    x = activations(BATCH)
    parts = joint_of(x).parted(joint_of(x).joined(x))
    for hook, each in x.items():
        torch.testing.assert_close(parts[hook], each)


@pytest.mark.parametrize("name", EXACT)
def test_what_is_saved_reads_and_writes_activations_as_they_are(name: str) -> None:
    x = activations(STEPS * BATCH)
    joint = joint_of(x)
    member = trained_by(crosscoder_of(CROSSCODERS[name], x, STEPS), x, STEPS)
    joined = joint.joined(x)
    with torch.no_grad():
        inside = objective.forward(
            member.kind.forward, member.weights, member.batch(joined)
        )
        saved = joint.of_activations(member.export())
        raw = torch.cat(list(x.values()), 1)
        found = torch.split(saved(raw), saved.widths, 1)
    for (hook, wanted), x_hat in zip(
        joint.parted(inside.x_hat).items(), found, strict=True
    ):
        size = float(x[hook].norm(dim=1).mean())
        torch.testing.assert_close(x_hat, wanted, rtol=1e-4, atol=1e-4 * size)
    again = joint.of_rows(saved)
    torch.testing.assert_close(again.encode(joined), saved.encode(raw))


@pytest.mark.parametrize("name", [WEIGHED, "topk", "jumprelu", "gated"])
def test_units_of_either_hook_change_nothing(name: str) -> None:
    x = activations(STEPS * BATCH)
    # Powers of two, so that no bit is rounded otherwise.
    other = {"near": 64 * x["near"], "far": x["far"] / 8}
    curves = [
        trained_by(
            crosscoder_of(CROSSCODERS[name], each, STEPS, log_every_steps=1),
            each,
            STEPS,
        ).curve
        for each in (x, other)
    ]
    assert curves[0] == curves[1]


@pytest.mark.parametrize("name", [WEIGHED, "relu-annealed", "batchtopk"])
def test_a_crosscoder_resumes_bit_for_bit(name: str) -> None:
    config, x = CROSSCODERS[name], activations(STEPS * BATCH)
    whole = trained_by(crosscoder_of(config, x, STEPS, ema_decay=0.9), x, STEPS)
    half = trained_by(crosscoder_of(config, x, STEPS, ema_decay=0.9), x, 4)
    again = crosscoder_of(config, x, STEPS, ema_decay=0.9)
    again.restore(half.state())
    found, wanted = trained_by(again, x, STEPS).state(), whole.state()
    assert all(torch.equal(found.tensors[k], t) for k, t in wanted.tensors.items())
    assert found.values == wanted.values


def test_crosscoders_that_step_at_once_agree_with_those_that_step_alone() -> None:
    x = activations(STEPS * BATCH)
    configs = [
        CROSSCODERS[WEIGHED].model_copy(update={"seed": seed}) for seed in (0, 1)
    ]
    alone = [
        trained_by(crosscoder_of(config, x, STEPS), x, STEPS) for config in configs
    ]
    together = [crosscoder_of(config, x, STEPS) for config in configs]
    for index, member in enumerate(together):
        member.key = str(index)
    beside = {member.key: family.Read() for member in together}
    for batch in joint_of(x).joined(x).split(BATCH):
        family.step_batched(together, batch, beside)
    for ours, wanted in zip(together, alone, strict=True):
        for name, weight in wanted.weights.items():
            torch.testing.assert_close(ours.weights[name], weight, rtol=1e-4, atol=1e-5)


def test_a_hook_that_does_not_vary_is_refused() -> None:
    x = activations(BATCH)
    x["far"] = torch.zeros_like(x["far"])
    with pytest.raises(ValueError) as caught:
        joint_of(x)
    assert str(caught.value) == (
        "saes.hook: found activations of 'far' that do not vary; leave it out of the "
        "list, or harvest more rows"
    )
