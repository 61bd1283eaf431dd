"""One SAE in training: schedules, resuming, export."""

import json
import math

import pytest
import torch
from torch import Tensor

from trilemma import toy
from trilemma.config.saes import BatchTopK, JumpReLU, ReLU, SAEConfig, TopK, Training
from trilemma.config.sources import Toy
from trilemma.training import Checkpoint, Member, NonFiniteLossError, Start

D_IN, D_SAE, BATCH, STEPS = 8, 64, 64, 30
SHARED = Training(batch_tokens=BATCH, dead_after_tokens=BATCH, log_every_steps=7)
CONFIGS: dict[str, SAEConfig] = {
    "relu": ReLU(kind="relu", d_sae=D_SAE, l1_coefficient=0.5, lr=1e-2),
    "jumprelu": JumpReLU(kind="jumprelu", d_sae=D_SAE, l0_coefficient=0.5, lr=1e-2),
    "topk": TopK(kind="topk", d_sae=D_SAE, k=2, lr=1e-2),
    "batchtopk": BatchTopK(kind="batchtopk", d_sae=D_SAE, k=2, lr=1e-2),
}


def rows() -> Tensor:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(STEPS * BATCH, D_IN, generator=generator)
    return 3 * (x * x.abs() + 0.2)


def start_of(x: Tensor) -> Start:
    return Start(x.shape[1], x.mean(0), float(x.double().square().sum(1).mean()))


def member_of(config: SAEConfig, x: Tensor, num_steps: int = STEPS) -> Member:
    return Member(
        config, SHARED, start=start_of(x), num_steps=num_steps, key="one", device="cpu"
    )


def train(member: Member, x: Tensor, stop: int) -> None:
    while member.step_index < stop:
        first = member.step_index % STEPS * BATCH
        member.step(x[first : first + BATCH])


def assert_same(first: Checkpoint, second: Checkpoint) -> None:
    assert first.values == second.values
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, second.tensors[name]), name


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("stop", [0, 1, 9, 10, 13])
def test_a_member_resumes_bit_for_bit_at_any_step(kind: str, stop: int) -> None:
    x = rows()
    whole = member_of(CONFIGS[kind], x)
    train(whole, x, STEPS)
    before = member_of(CONFIGS[kind], x)
    train(before, x, stop)
    tensors, values = before.state()
    train(before, x, stop + 3)  # a checkpoint is a copy: going on does not change it
    after = member_of(CONFIGS[kind], x)
    after.restore(Checkpoint(tensors, json.loads(json.dumps(values))))
    train(after, x, STEPS)
    assert_same(whole.state(), after.state())


def test_dead_latents_are_among_what_resumes() -> None:
    x = rows()
    member = member_of(CONFIGS["topk"], x)
    train(member, x, 12)
    assert len(member.state().tensors["dead"]) > 0


def test_a_member_trained_beside_others_equals_one_trained_alone() -> None:
    x = rows()
    alone = member_of(CONFIGS["topk"], x)
    train(alone, x, STEPS)
    family = {kind: member_of(config, x) for kind, config in CONFIGS.items()}
    for stop in range(1, STEPS + 1):
        for member in family.values():
            train(member, x, stop)
    assert_same(alone.state(), family["topk"].state())


@pytest.mark.parametrize("kind", CONFIGS)
def test_decoder_rows_keep_unit_norm(kind: str) -> None:
    x = rows()
    member = member_of(CONFIGS[kind], x)
    train(member, x, STEPS)
    norm = member.state().tensors["weights.W_dec"].norm(dim=1)
    torch.testing.assert_close(norm, torch.ones(D_SAE))


def test_a_frozen_decoder_stays_while_the_encoder_moves() -> None:
    x = rows()
    frozen = TopK(kind="topk", d_sae=D_SAE, k=2, lr=1e-2, freeze_decoder=True)
    member = member_of(frozen, x)
    before = member.state().tensors
    train(member, x, STEPS)
    after = member.state().tensors
    assert torch.equal(before["weights.W_dec"], after["weights.W_dec"])
    assert not torch.equal(before["weights.W_enc"], after["weights.W_enc"])


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_exported_sae_equals_the_member_in_its_scaled_space(kind: str) -> None:
    x = rows()
    member = member_of(CONFIGS[kind], x)
    train(member, x, STEPS)
    tensors, scale = member.state().tensors, start_of(x).scale
    sae = member.export()
    scaled = x * scale - tensors["weights.b_dec"]
    pre_acts = scaled @ tensors["weights.W_enc"] + tensors["weights.b_enc"]
    threshold = torch.zeros(())
    if kind == "jumprelu":
        threshold = tensors["weights.log_threshold"].exp()
    elif kind == "batchtopk":
        threshold = tensors["cut"]
    acts = torch.relu(pre_acts) * (pre_acts > threshold)
    if kind == "topk":
        smallest = acts.topk(2).values.min(dim=1, keepdim=True).values
        acts = acts * (acts >= smallest)
    x_hat = acts @ tensors["weights.W_dec"] + tensors["weights.b_dec"]
    # A value within rounding of its threshold may fall on either side.
    is_clear = ((pre_acts - threshold).abs() > 1e-4).all(dim=1)
    torch.testing.assert_close(
        sae.encode(x)[is_clear] * scale, acts[is_clear], rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        sae(x)[is_clear] * scale, x_hat[is_clear], rtol=1e-4, atol=1e-4
    )


def test_batchtopk_is_exported_with_about_k_latents_a_row() -> None:
    x = rows()
    member = member_of(CONFIGS["batchtopk"], x, num_steps=4 * STEPS)
    train(member, x, 4 * STEPS)
    l0 = float((member.export().encode(x) != 0).sum(1).double().mean())
    assert abs(l0 - 2) < 0.3


def test_the_exported_sae_says_how_it_was_trained() -> None:
    x = rows()
    member = member_of(CONFIGS["batchtopk"], x)
    train(member, x, STEPS)
    metadata = member.export().metadata
    assert metadata["training_architecture"] == "batchtopk"
    assert metadata["l0"] == member.curve[-1]["l0"]
    assert metadata["trilemma"]["num_tokens"] == STEPS * BATCH
    assert metadata["trilemma"]["activation_scale"] == start_of(x).scale


def test_the_curve_has_a_row_at_each_logging_step_and_at_the_last() -> None:
    x = rows()
    member = member_of(CONFIGS["jumprelu"], x)
    train(member, x, STEPS)
    assert [row["step"] for row in member.curve] == [7, 14, 21, 28, 30]
    assert all(math.isfinite(row["loss"]) for row in member.curve)


def test_step_returns_the_row_that_it_logs() -> None:
    x = rows()
    member = member_of(CONFIGS["relu"], x)
    train(member, x, 6)
    row = member.step(x[:BATCH])
    assert row == member.curve[0]
    assert member.step(x[:BATCH]) is None


def test_the_learning_rate_rises_stays_and_falls() -> None:
    x = rows()
    shared = Training(log_every_steps=1, warmup_fraction=0.2, decay_fraction=0.2)
    member = Member(
        CONFIGS["topk"],
        shared,
        start=start_of(x),
        num_steps=10,
        key="one",
        device="cpu",
    )
    train(member, x, 10)
    found = [row["lr"] for row in member.curve]
    expected = [0.005, *[0.01] * 8, 0.005]
    assert found == pytest.approx(expected)


def test_the_default_learning_rate_falls_with_the_root_of_the_width() -> None:
    x = rows()
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
    x = rows()
    first, second = member_of(CONFIGS[kind], x), member_of(CONFIGS[kind], 1024 * x)
    train(first, x, STEPS)
    train(second, 1024 * x, STEPS)  # a power of two: exact in floating point
    assert first.curve == second.curve


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_batch_that_is_not_finite_leaves_the_member_as_it_was(kind: str) -> None:
    x = rows()
    member = member_of(CONFIGS[kind], x)
    train(member, x, 5)
    before = member.state()
    bad = x[:BATCH].clone()
    bad[3, 2] = torch.inf
    with pytest.raises(NonFiniteLossError, match=r"training\.one: .* at step 6; lower"):
        member.step(bad)
    assert_same(before, member.state())


def test_activations_that_do_not_vary_are_refused() -> None:
    x = torch.zeros(BATCH, D_IN)
    with pytest.raises(
        ValueError, match="training: found activations that do not vary"
    ):
        member_of(CONFIGS["topk"], x)


def test_topk_recovers_the_features_of_a_toy() -> None:
    config = Toy(num_features=16, d_in=16, ctx=64, density=0.08, num_tokens=64 * 1200)
    x = toy.sample(config, split="train", start=0, num=300 * 256).x
    member = Member(
        TopK(kind="topk", d_sae=32, k=2, lr=5e-3),
        Training(dead_after_tokens=20_000),
        start=start_of(x),
        num_steps=300,
        key="toy",
        device="cpu",
    )
    for step in range(300):
        member.step(x[step * 256 : (step + 1) * 256])
    cosines = toy.features(config) @ member.export().W_dec.detach().t()
    assert float(cosines.amax(dim=1).mean()) >= 0.9
