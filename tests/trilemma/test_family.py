"""SAEs stepped at once go the way that each goes alone, to rounding."""

import pytest
import torch
from torch import Tensor

from tests.trilemma.kinds import transcoders
from tests.trilemma.kinds.samples import (
    BATCH,
    CONFIGS,
    D_IN,
    D_SAE,
    SHARED,
    measured,
    member_of,
    rows,
    start_of,
    trained_by,
)
from trilemma import family
from trilemma.config.saes import SAEConfig
from trilemma.kinds import dense
from trilemma.non_finite import NonFiniteLossError
from trilemma.training import Member

STEPS = 20
NOTHING = {f"member-{index}": family.Read() for index in range(9)}
BATCHED = [kind for kind, config in CONFIGS.items() if dense.forward_of(config)]
# Rows of the curve. A power below 1 is so steep near zero that rounding grows.
COMPARED = dict.fromkeys(BATCHED, 3) | {"relu-lp": 0, "relu-annealed": 2}


def variants(config: SAEConfig) -> list[SAEConfig]:
    """Return SAEs that differ in what members of a stack may differ in."""
    other: dict[str, float] = {"seed": 1, "lr": 5e-3}
    for key in ("l1_coefficient", "l0_coefficient"):
        if hasattr(config, key):
            other[key] = 0.25
    return [config, config.model_copy(update=other)]


def members_of(
    configs: list[SAEConfig], x: Tensor, precision: str = "float32"
) -> list[Member]:
    return [
        Member(
            config,
            SHARED.model_copy(update={"precision": precision}),
            start=start_of(x),
            num_steps=STEPS,
            key=f"member-{index}",
            device="cpu",
        )
        for index, config in enumerate(configs)
    ]


def stepped(members: list[Member], x: Tensor, stop: int = STEPS) -> list[Member]:
    for step in range(members[0].step_index, stop):
        batch = x[step * BATCH : (step + 1) * BATCH]
        outcomes = family.step_batched(members, batch, NOTHING)
        assert not any(isinstance(each, NonFiniteLossError) for each in outcomes)
    return members


@pytest.mark.parametrize("kind", [kind for kind, rows in COMPARED.items() if rows])
def test_members_at_once_have_the_curves_of_members_alone(kind: str) -> None:
    x, configs = rows(STEPS * BATCH), variants(CONFIGS[kind])
    together = stepped(members_of(configs, x), x)
    for found, config in zip(together, configs, strict=True):
        alone = trained_by(member_of(config, x, STEPS), x, STEPS)
        pairs = list(zip(found.curve, alone.curve, strict=True))
        for row, wanted in pairs[: COMPARED[kind]]:
            assert measured(row) == pytest.approx(measured(wanted), 1e-4, 1e-6)


@pytest.mark.parametrize("kind", [kind for kind, rows in COMPARED.items() if rows])
def test_bfloat16_products_at_once_are_those_alone_to_rounding(kind: str) -> None:
    x, configs = rows(STEPS * BATCH), variants(CONFIGS[kind])
    together = stepped(members_of(configs, x, "bfloat16"), x)
    for found, member in zip(together, members_of(configs, x, "bfloat16"), strict=True):
        alone = trained_by(member, x, STEPS)
        assert found.curve[-1]["loss"] == pytest.approx(alone.curve[-1]["loss"], 5e-2)


@pytest.mark.parametrize("kind", BATCHED)
def test_the_gradients_at_once_are_those_alone(kind: str) -> None:
    x, configs = rows(STEPS * BATCH), variants(CONFIGS[kind])
    together = stepped(members_of(configs, x), x, stop=1)
    for found, config in zip(together, configs, strict=True):
        alone = trained_by(member_of(config, x, STEPS), x, 1)
        for name, weight in alone.weights.items():
            torch.testing.assert_close(
                found.weights[name].grad, weight.grad, rtol=1e-3, atol=1e-6
            )


@pytest.mark.parametrize("kind", ["relu", "topk", "batchtopk"])
def test_a_batch_of_one_row_is_taken_at_once_as_it_is_alone(kind: str) -> None:
    x, configs = rows(STEPS * BATCH), variants(CONFIGS[kind])
    members = stepped(members_of(configs, x), x, stop=STEPS - 1)
    alone = members_of(configs, x)
    for one, member in zip(alone, members, strict=True):
        one.restore(member.state())
    family.step_batched(members, x[:1], NOTHING)
    for one, member in zip(alone, members, strict=True):
        wanted = measured(one.step(x[:1]) or one.curve[-1])
        assert measured(member.curve[-1]) == pytest.approx(wanted, 1e-4, 1e-6)
        assert all(bool(w.isfinite().all()) for w in member.weights.values())


@pytest.mark.parametrize("kind", ["relu", "topk-skip", "batchtopk"])
def test_transcoders_at_once_have_the_curves_of_transcoders_alone(kind: str) -> None:
    x, y = transcoders.pairs(STEPS * BATCH)
    configs = variants(transcoders.TRANSCODERS[kind])
    together = [transcoders.transcoder_of(c, x, y, STEPS) for c in configs]
    alone = [transcoders.transcoder_of(c, x, y, STEPS) for c in configs]
    together[1].key = "other"
    for first in range(0, STEPS * BATCH, BATCH):
        batch = slice(first, first + BATCH)
        read = family.Read(y=y[batch])
        family.step_batched(together, x[batch], {m.key: read for m in together})
    assert len(family.groups(together, x[:BATCH])) == 1
    for found, member in zip(together, alone, strict=True):
        curve = transcoders.trained_by(member, x, y, STEPS).curve
        for row, wanted in zip(found.curve, curve, strict=True):
            assert measured(row) == pytest.approx(measured(wanted), 1e-4, 1e-6)


def test_dead_latents_are_among_what_is_compared() -> None:
    x = rows(STEPS * BATCH)
    members = stepped(members_of(variants(CONFIGS["topk"]), x), x)
    assert all(len(member.state().tensors["dead"]) > 0 for member in members)


def test_alike_members_are_grouped_and_others_stay_alone() -> None:
    x = rows(STEPS * BATCH)
    configs = [*variants(CONFIGS["topk"]), *variants(CONFIGS["relu"])]
    configs += [CONFIGS["tree"], *variants(CONFIGS["matryoshka"])]
    configs += [CONFIGS["topk"].model_copy(update={"k": 3, "seed": 5})]
    groups = family.groups(members_of(configs, x), x[:BATCH])
    keys = [[member.key.removeprefix("member-") for member in each] for each in groups]
    assert keys == [["0", "1"], ["2", "3"], ["4"], ["5"], ["6"], ["7"]]


def test_kinds_of_one_sum_can_be_batched() -> None:
    alone = {"gated", "group", "tree", "jumprelu-tanh", "matryoshka"}
    assert set(BATCHED) == set(CONFIGS) - alone


def test_large_saes_are_stepped_alone() -> None:
    members = members_of(variants(CONFIGS["topk"]), rows(STEPS * BATCH))
    num_rows = 10**10 // (D_IN * D_SAE)
    for more, sizes in ((0, [2]), (1, [1, 1])):
        batch = torch.empty(num_rows + more, D_IN, device="meta")
        assert [len(group) for group in family.groups(members, batch)] == sizes


def test_a_member_goes_on_alone_from_what_it_kept_among_others() -> None:
    x, configs = rows(STEPS * BATCH), variants(CONFIGS["batchtopk"])
    first = stepped(members_of(configs, x), x, stop=9)[1].state()
    after = member_of(configs[1], x, STEPS)
    after.restore(first)
    trained_by(after, x, STEPS)
    alone = trained_by(member_of(configs[1], x, STEPS), x, STEPS)
    assert first.tensors.keys() == alone.state().tensors.keys()
    assert measured(after.curve[-1]) == pytest.approx(measured(alone.curve[-1]), 1e-4)


def test_one_that_diverges_stays_as_it_was_and_the_others_go_on() -> None:
    x, configs = rows(STEPS * BATCH), variants(CONFIGS["relu"])
    members = stepped(members_of(configs, x), x, stop=3)
    broken = members[0].state()
    broken.tensors["weights.b_enc"][0] = torch.inf
    members[0].restore(broken)
    lost, _ = family.step_batched(members, x[:BATCH], NOTHING)
    assert isinstance(lost, NonFiniteLossError)
    assert "training member-0: " in str(lost)
    assert "at step 4; all rows of its batch are finite; lower lr" in str(lost)
    assert [member.step_index for member in members] == [3, 4]
    kept = members[0].state().tensors
    assert all(torch.equal(kept[name], t) for name, t in broken.tensors.items())


def test_step_by_step_is_what_members_do_by_themselves() -> None:
    x, configs = rows(STEPS * BATCH), variants(CONFIGS["topk"])
    together = members_of(configs, x)
    for step in range(3):
        family.step(together, x[step * BATCH : (step + 1) * BATCH], NOTHING)
    for found, config in zip(together, configs, strict=True):
        alone = trained_by(member_of(config, x, STEPS), x, 3).state().tensors
        state = found.state().tensors
        assert all(torch.equal(state[name], alone[name]) for name in alone)
