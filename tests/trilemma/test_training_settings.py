"""Resampling, the running mean and held-out measurements, beside each other."""

import json

import pytest
import torch

from tests.trilemma.kinds.samples import (
    BATCH,
    CONFIGS,
    SHARED,
    rows,
    start_of,
    trained_by,
)
from trilemma import held_out
from trilemma.training import Member
from trilemma.training_record import Checkpoint

STEPS = 30
DECAY = 0.9
ON = SHARED.model_copy(update={"ema_decay": DECAY, "eval_every_steps": 5})
RESAMPLING = {"resample_every_steps": 4, "resample_until_fraction": 0.7}


def member_of(kind, x, shared=ON, num_steps=STEPS, **changes):
    measured = shared.eval_every_steps is not None
    return Member(
        CONFIGS[kind].model_copy(update=changes),
        shared,
        start=start_of(x),
        num_steps=num_steps,
        key="one",
        device="cpu",
        held_out_rows=rows(STEPS * BATCH + 100)[-100:] if measured else None,
    )


def assert_same(first, second):
    assert first.values == second.values
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, second.tensors[name]), name


@pytest.mark.parametrize("stop", [0, 1, 4, 13])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_member_with_all_settings_resumes_bit_for_bit(kind, stop):
    x = rows(STEPS * BATCH)
    whole = trained_by(member_of(kind, x, **RESAMPLING), x, STEPS)
    before = trained_by(member_of(kind, x, **RESAMPLING), x, stop)
    tensors, values = before.state()
    after = member_of(kind, x, **RESAMPLING)
    after.restore(Checkpoint(tensors, json.loads(json.dumps(values))))
    trained_by(after, x, STEPS)
    assert_same(whole.state(), after.state())
    for name, tensor in whole.export().state_dict().items():
        assert torch.equal(tensor, after.export().state_dict()[name]), name


def test_members_with_all_settings_equal_themselves_trained_alone():
    x = rows(STEPS * BATCH)
    family = {kind: member_of(kind, x, **RESAMPLING) for kind in CONFIGS}
    for stop in range(1, STEPS + 1):
        for member in family.values():
            trained_by(member, x, stop)
    for kind, member in family.items():
        alone = trained_by(member_of(kind, x, **RESAMPLING), x, STEPS)
        assert_same(alone.state(), member.state())


@pytest.mark.parametrize("kind", CONFIGS)
def test_measuring_and_averaging_leave_the_weights_as_they_are(kind):
    x = rows(STEPS * BATCH)
    plain = trained_by(member_of(kind, x, SHARED), x, STEPS).state().tensors
    watched = trained_by(member_of(kind, x), x, STEPS).state().tensors
    assert set(watched) - set(plain) == {n for n in watched if n.startswith("means.")}
    for name, tensor in plain.items():
        assert torch.equal(tensor, watched[name]), name


def test_the_curve_measures_the_exported_sae_at_its_steps():
    x = rows(STEPS * BATCH)
    member = member_of("batchtopk", x)
    seen = {}
    for step in range(1, STEPS + 1):
        trained_by(member, x, step)
        if step % 5 == 0:
            unseen = rows(STEPS * BATCH + 100)[-100:]
            seen[step] = held_out.measure(member.export(), unseen)
    keys = ("eval_fvu", "eval_l0", "eval_silent_fraction")
    found = {row["step"]: tuple(row[key] for key in keys) for row in member.curve}
    assert list(found) == [5, 7, 10, 14, 15, 20, 21, 25, 28, 30]
    for step, values in found.items():
        assert values == (tuple(seen[step]) if step in seen else (None,) * 3)


@pytest.mark.parametrize("shared", [SHARED, ON])
def test_the_l0_of_codes_that_are_pursued_is_not_the_encoders(shared):
    x = rows(STEPS * BATCH)
    member = member_of("topk", x, shared, inference="matching_pursuit")
    last = trained_by(member, x, STEPS).curve[-1]
    assert member.export().metadata["l0"] == last["eval_l0"]
    assert (last["eval_l0"] is None) == (shared is SHARED)


def test_rows_of_the_curve_have_the_same_keys_whatever_is_measured():
    x = rows(STEPS * BATCH)
    measured = trained_by(member_of("topk", x), x, STEPS).curve
    plain = trained_by(member_of("topk", x, SHARED), x, STEPS).curve
    assert len({tuple(row) for row in measured + plain}) == 1


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_is_exported_is_the_running_mean_written_out(kind):
    x = rows(STEPS * BATCH)
    member = member_of(kind, x)
    mean = None
    for step in range(STEPS):
        trained_by(member, x, step + 1)
        state = member.state().tensors
        weights = {
            name.removeprefix("weights."): tensor.double()
            for name, tensor in state.items()
            if name.startswith("weights.")
        }
        decay = min(DECAY, step / (step + 10))
        mean = mean or weights
        mean = {n: decay * mean[n] + (1 - decay) * w for n, w in weights.items()}
    if kind != "relu-decoder-norm":
        mean["W_dec"] = torch.nn.functional.normalize(mean["W_dec"], dim=1)
    sae, scale = member.export(), start_of(x).scale
    torch.testing.assert_close(sae.W_dec.double(), mean["W_dec"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sae.W_enc.double(), mean["W_enc"], rtol=1e-5, atol=1e-6)
    b_dec = mean["b_dec"] / scale
    torch.testing.assert_close(sae.b_dec.double(), b_dec, rtol=1e-5, atol=1e-6)
    if "log_threshold" in mean:
        threshold = mean["log_threshold"].exp() / scale
        torch.testing.assert_close(
            sae.threshold.double(), threshold, rtol=1e-5, atol=1e-6
        )


def test_the_mean_of_a_latent_begins_anew_with_it():
    x = rows(STEPS * BATCH)
    plain = trained_by(member_of("topk", x), x, 4).state().tensors
    anew = trained_by(member_of("topk", x, **RESAMPLING), x, 4).state().tensors
    is_new = (plain["weights.W_dec"] != anew["weights.W_dec"]).any(1)
    assert is_new.any()
    assert torch.equal(anew["means.W_dec"][is_new], anew["weights.W_dec"][is_new])


def test_a_frozen_decoder_is_exported_as_it_is():
    x = rows(STEPS * BATCH)
    member = trained_by(member_of("topk", x, freeze_decoder=True), x, STEPS)
    assert torch.equal(member.export().W_dec, member.state().tensors["weights.W_dec"])


@pytest.mark.parametrize("kind", ["batchtopk", "matryoshka"])
def test_the_threshold_goes_with_the_mean_of_the_weights(kind):
    x = rows(STEPS * BATCH)
    shared = ON.model_copy(update={"ema_decay": 0.99})
    member = trained_by(member_of(kind, x, shared, 10 * STEPS), x, 10 * STEPS)
    l0 = float((member.export().encode(x) != 0).sum(1).double().mean())
    assert abs(l0 - 2) < 0.3


def test_b_dec_starts_at_the_centre_that_it_is_given():
    x = rows(STEPS * BATCH)
    center = torch.arange(8.0, dtype=torch.float64)
    start = start_of(x)._replace(center=center)
    member = Member(
        CONFIGS["topk"], SHARED, start=start, num_steps=1, key="one", device="cpu"
    )
    torch.testing.assert_close(member.export().b_dec.double(), center)
