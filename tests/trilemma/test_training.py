"""One SAE in training: schedules, resuming, export."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.trilemma.kinds.samples import (
    BATCH,
    CONFIGS,
    D_IN,
    D_SAE,
    SHARED,
    member_of,
    rows,
    start_of,
    trained_by,
)
from trilemma import kinds
from trilemma.config.saes import SAEConfig, TopK
from trilemma.config.training import Training
from trilemma.non_finite import NonFiniteLossError
from trilemma.sae import SAE
from trilemma.training import Member
from trilemma.training_record import Checkpoint

STEPS = 30


def fresh(config: SAEConfig, x: Tensor, num_steps: int = STEPS) -> Member:
    return member_of(config, x, num_steps)


def assert_same(first: Checkpoint, second: Checkpoint) -> None:
    assert first.values == second.values
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, second.tensors[name]), name


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("stop", [0, 1, 9, 10, 13])
def test_a_member_resumes_bit_for_bit_at_any_step(kind: str, stop: int) -> None:
    x = rows(STEPS * BATCH)
    whole = fresh(CONFIGS[kind], x)
    trained_by(whole, x, STEPS)
    before = fresh(CONFIGS[kind], x)
    trained_by(before, x, stop)
    tensors, values = before.state()
    trained_by(
        before, x, stop + 3
    )  # a checkpoint is a copy: going on does not change it
    after = fresh(CONFIGS[kind], x)
    after.restore(Checkpoint(tensors, json.loads(json.dumps(values))))
    trained_by(after, x, STEPS)
    assert_same(whole.state(), after.state())


def test_dead_latents_are_among_what_resumes() -> None:
    x = rows(STEPS * BATCH)
    member = fresh(CONFIGS["topk"], x)
    trained_by(member, x, 12)
    assert len(member.state().tensors["dead"]) > 0


def test_a_member_trained_beside_others_equals_one_trained_alone() -> None:
    x = rows(STEPS * BATCH)
    alone = fresh(CONFIGS["topk"], x)
    trained_by(alone, x, STEPS)
    family = {kind: fresh(config, x) for kind, config in CONFIGS.items()}
    for stop in range(1, STEPS + 1):
        for member in family.values():
            trained_by(member, x, stop)
    assert_same(alone.state(), family["topk"].state())


@pytest.mark.parametrize("kind", sorted(CONFIGS.keys() - {"relu-decoder-norm"}))
def test_decoder_rows_keep_unit_norm(kind: str) -> None:
    x = rows(STEPS * BATCH)
    member = fresh(CONFIGS[kind], x)
    trained_by(member, x, STEPS)
    norm = member.state().tensors["weights.W_dec"].norm(dim=1)
    torch.testing.assert_close(norm, torch.ones(D_SAE))


def test_a_frozen_decoder_stays_while_the_encoder_moves() -> None:
    x = rows(STEPS * BATCH)
    frozen = TopK(kind="topk", d_sae=D_SAE, k=2, lr=1e-2, freeze_decoder=True)
    member = fresh(frozen, x)
    before = member.state().tensors
    trained_by(member, x, STEPS)
    after = member.state().tensors
    assert torch.equal(before["weights.W_dec"], after["weights.W_dec"])
    assert not torch.equal(before["weights.W_enc"], after["weights.W_enc"])


@pytest.mark.parametrize("kind", CONFIGS)
def test_without_a_decoder_bias_there_is_none(kind: str) -> None:
    x = rows(STEPS * BATCH)
    config = CONFIGS[kind].model_copy(update={"decoder_bias": False})
    member = trained_by(fresh(config, x), x, STEPS)
    assert not bool(member.export().b_dec.any())


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_exported_sae_equals_the_member_in_its_scaled_space(kind: str) -> None:
    x = rows(STEPS * BATCH)
    config = CONFIGS[kind]
    member = trained_by(fresh(config, x), x, STEPS)
    tensors, scale = member.state().tensors, start_of(x).scale
    weights = {name.removeprefix("weights."): t for name, t in tensors.items()}
    sae = member.export()
    pre_acts = (x * scale - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    threshold = torch.zeros(())
    if sae.activation == "jumprelu":
        is_learned = "log_threshold" in weights
        threshold = (
            weights["log_threshold"].exp() if is_learned else tensors["averages.cut"]
        )
    acts = torch.relu(pre_acts) * (pre_acts > threshold)
    if sae.activation == "topk":
        smallest = acts.topk(2).values.min(dim=1, keepdim=True).values
        acts = acts * (acts >= smallest)
    elif sae.activation == "gated":
        pi = pre_acts - weights["b_enc"]
        magnitudes = weights["r_mag"].exp() * pi + weights["b_mag"]
        acts = torch.relu(magnitudes) * (pre_acts > 0)
    elif sae.activation == "tree":
        for latent in range(16, D_SAE):
            acts[acts[:, (latent - 16) // 2] == 0, latent] = 0
    x_hat = acts @ weights["W_dec"] + weights["b_dec"]
    # A value within rounding of its threshold may fall on either side.
    is_clear = ((pre_acts - threshold).abs() > 1e-4).all(dim=1)
    torch.testing.assert_close(
        sae.encode(x)[is_clear] * scale, acts[is_clear], rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        sae(x)[is_clear] * scale, x_hat[is_clear], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_exported_sae_is_read_back_as_it_was(kind: str, tmp_path: Path) -> None:
    x = rows(4 * BATCH)
    sae = trained_by(fresh(CONFIGS[kind], x), x, 4).export()
    sae.save(tmp_path)
    assert torch.equal(SAE.load(tmp_path).encode(x), sae.encode(x))


def test_batchtopk_is_exported_with_about_k_latents_a_row() -> None:
    x = rows(STEPS * BATCH)
    member = fresh(CONFIGS["batchtopk"], x, num_steps=4 * STEPS)
    trained_by(member, x, 4 * STEPS)
    l0 = float((member.export().encode(x) != 0).sum(1).double().mean())
    assert abs(l0 - 2) < 0.3


def test_the_exported_sae_says_how_it_was_trained() -> None:
    x = rows(STEPS * BATCH)
    member = fresh(CONFIGS["batchtopk"], x)
    trained_by(member, x, STEPS)
    metadata = member.export().metadata
    assert metadata["training_architecture"] == "batchtopk"
    assert metadata["l0"] == member.curve[-1]["l0"]
    assert metadata["trilemma"]["num_tokens"] == STEPS * BATCH
    assert metadata["trilemma"]["activation_scale"] == start_of(x).scale


def test_the_curve_has_a_row_at_each_logging_step_and_at_the_last() -> None:
    x = rows(STEPS * BATCH)
    member = fresh(CONFIGS["jumprelu"], x)
    trained_by(member, x, STEPS)
    assert [row["step"] for row in member.curve] == [7, 14, 21, 28, 30]
    assert all(math.isfinite(row["loss"]) for row in member.curve)


def test_step_returns_the_row_that_it_logs() -> None:
    x = rows(STEPS * BATCH)
    member = fresh(CONFIGS["relu"], x)
    trained_by(member, x, 6)
    row = member.step(x[:BATCH])
    assert row == member.curve[0]
    assert member.step(x[:BATCH]) is None


def test_the_learning_rate_rises_stays_and_falls() -> None:
    x = rows(STEPS * BATCH)
    shared = Training(log_every_steps=1, warmup_fraction=0.2, decay_fraction=0.2)
    member = Member(
        CONFIGS["topk"],
        shared,
        start=start_of(x),
        num_steps=10,
        key="one",
        device="cpu",
    )
    trained_by(member, x, 10)
    found = [row["lr"] for row in member.curve]
    expected = [0.005, *[0.01] * 8, 0.005]
    assert found == pytest.approx(expected)


def test_the_default_learning_rate_falls_with_the_root_of_the_width() -> None:
    x = rows(STEPS * BATCH)
    shared = Training(log_every_steps=1, warmup_fraction=0, decay_fraction=0)
    config = TopK(kind="topk", d_sae=64, k=2)
    member = Member(
        config, shared, start=start_of(x), num_steps=3, key="one", device="cpu"
    )
    row = member.step(x[:BATCH])
    assert row is not None
    assert row["lr"] == pytest.approx(2e-4 / math.sqrt(64 / 2**14))


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_units_of_the_activations_do_not_matter(kind: str) -> None:
    x = rows(STEPS * BATCH)
    first, second = fresh(CONFIGS[kind], x), fresh(CONFIGS[kind], 1024 * x)
    trained_by(first, x, STEPS)
    trained_by(second, 1024 * x, STEPS)  # a power of two: exact in floating point
    assert first.curve == second.curve


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_batch_that_is_not_finite_leaves_the_member_as_it_was(
    kind: str, value: float, precision: str
) -> None:
    x = rows(STEPS * BATCH)
    shared = SHARED.model_copy(update={"precision": precision})
    member = Member(
        CONFIGS[kind],
        shared,
        start=start_of(x),
        num_steps=STEPS,
        key="one",
        device="cpu",
    )
    trained_by(member, x, 5)
    before = member.state()
    bad = x[:BATCH].clone()
    bad[3, 2] = value
    line = (
        r"training one: .* at step 6; rows 3 of its batch are not finite; harvest them"
    )
    with pytest.raises(NonFiniteLossError, match=line):
        member.step(bad)
    assert_same(before, member.state())


def test_an_overflow_of_finite_rows_is_told_apart() -> None:
    x = rows(STEPS * BATCH)
    member = fresh(CONFIGS["topk"], x)
    line = r"at step 1; all rows of its batch are finite; lower lr"
    with pytest.raises(NonFiniteLossError, match=line):
        member.step(1e30 * x[:BATCH])


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_last_batch_of_an_epoch_may_have_one_row(kind: str) -> None:
    x = rows(STEPS * BATCH)
    member = trained_by(fresh(CONFIGS[kind], x), x, STEPS - 1)
    row = member.step(x[:1])
    assert row is not None
    assert math.isfinite(row["loss"])
    assert all(bool(weight.isfinite().all()) for weight in member.weights.values())


def test_activations_that_do_not_vary_are_refused() -> None:
    x = torch.zeros(BATCH, D_IN)
    with pytest.raises(
        ValueError, match="training: found activations of hook that do not vary"
    ):
        fresh(CONFIGS["topk"], x)


def test_a_target_that_does_not_vary_is_refused_by_its_name() -> None:
    x = rows(BATCH)
    with pytest.raises(ValueError, match="of target_hook that do not vary"):
        Member(
            CONFIGS["topk"].model_copy(update={"target_hook": "b"}),
            SHARED,
            start=start_of(x),
            target_start=start_of(torch.zeros_like(x)),
            num_steps=STEPS,
            key="one",
            device="cpu",
        )


@pytest.mark.parametrize("kind", CONFIGS)
def test_bfloat16_products_leave_the_losses_as_they_are_to_rounding(kind: str) -> None:
    x = rows(STEPS * BATCH)
    # At ten times the rate decoders of these few dimensions overshoot, and rounding
    # grows from step to step.
    config = CONFIGS[kind]
    assert config.lr is not None
    lr = config.lr / kinds.make(config).lr_factors.get("W_dec", 1.0)
    losses = []
    for precision in ("float32", "bfloat16"):
        member = Member(
            config.model_copy(update={"lr": lr}),
            SHARED.model_copy(update={"precision": precision}),
            start=start_of(x),
            num_steps=STEPS,
            key="one",
            device="cpu",
        )
        trained_by(member, x, STEPS)
        losses.append([row["loss"] for row in member.curve])
        state = member.state().tensors
        weights = [t for name, t in state.items() if name.startswith("weights.")]
        assert all(weight.dtype == torch.float32 for weight in weights)
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
