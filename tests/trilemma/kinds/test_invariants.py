"""What must hold of each kind, whatever the numbers."""

import pytest
import torch
from torch import Tensor

from tests.trilemma.kinds.samples import (
    BATCH,
    CONFIGS,
    D_IN,
    D_SAE,
    batch_of,
    disturbed,
    kind_of,
    member_of,
    rows,
    trained_by,
)
from trilemma import kinds, objective
from trilemma.config.saes import (
    BatchTopK,
    JumpReLU,
    Matryoshka,
    ReLU,
    SAEConfig,
    TopK,
)
from trilemma.kinds import annealing, topk
from trilemma.kinds.kind import Forward

ANNEALED = CONFIGS["relu-annealed"]


def forward_of(config: SAEConfig, weights: dict[str, Tensor] | None = None) -> Forward:
    kind = kinds.make(config)
    batch = batch_of(kind, rows(BATCH))
    return kind.forward(weights or disturbed(config, kind), batch)


def changed(name: str, **changes: object) -> SAEConfig:
    return CONFIGS[name].model_copy(update=changes)


def test_a_child_fires_only_with_its_parent() -> None:
    code = forward_of(CONFIGS["tree"]).code
    acts = code.acts
    assert acts.shape == (BATCH, D_SAE)
    for latent in range(16, D_SAE):
        assert not bool(
            ((acts[:, latent] > 0) & (acts[:, (latent - 16) // 2] == 0)).any()
        )
    assert bool((acts[:, 16:] > 0).any())


def test_a_tree_of_roots_alone_is_a_relu_sae() -> None:
    roots = changed("tree", num_roots=D_SAE)
    flat, tree = forward_of(CONFIGS["relu"]), forward_of(roots)
    assert torch.equal(flat.x_hat, tree.x_hat)
    assert flat.penalty == tree.penalty


def test_groups_of_one_are_a_relu_sae() -> None:
    single = forward_of(changed("group", group_size=1))
    torch.testing.assert_close(single.penalty, forward_of(CONFIGS["relu"]).penalty)


def test_a_group_costs_less_than_its_latents_apart() -> None:
    together = forward_of(CONFIGS["group"]).penalty
    apart = forward_of(CONFIGS["relu"]).penalty
    assert together is not None
    assert apart is not None
    # sqrt(4) ||z|| lies between ||z||_1 and twice that.
    assert apart <= together <= 2 * apart


def test_a_gated_sae_starts_as_a_relu_sae() -> None:
    kind = kind_of("gated")
    start = objective.initial_weights(
        CONFIGS["gated"], kind, d_in=8, b_dec=torch.zeros(8)
    )
    gated, relu = (
        forward_of(CONFIGS["gated"], start),
        forward_of(CONFIGS["relu"], start),
    )
    torch.testing.assert_close(gated.x_hat, relu.x_hat)
    torch.testing.assert_close(gated.error, 2 * relu.error)


def test_a_matryoshka_of_one_width_is_a_batchtopk() -> None:
    one = forward_of(changed("matryoshka", widths=(D_SAE,)))
    plain = forward_of(CONFIGS["batchtopk"])
    torch.testing.assert_close(one.x_hat, plain.x_hat)
    torch.testing.assert_close(one.error, plain.error)


def test_all_widths_of_a_matryoshka_share_one_code() -> None:
    nested = forward_of(CONFIGS["matryoshka"])
    torch.testing.assert_close(nested.x_hat, forward_of(CONFIGS["batchtopk"]).x_hat)


def test_lp_at_1_is_l1() -> None:
    lp = forward_of(changed("relu-lp", p=1.0)).penalty
    torch.testing.assert_close(lp, forward_of(CONFIGS["relu"]).penalty)


def test_a_log_penalty_of_large_scale_is_l1() -> None:
    log = forward_of(changed("relu-log", log_scale=1e4)).penalty
    assert log is not None
    torch.testing.assert_close(
        1e4 * log, forward_of(CONFIGS["relu"]).penalty, rtol=1e-3, atol=0.0
    )


def test_decoder_norms_weigh_activations() -> None:
    kind = kind_of("relu")
    weights = disturbed(CONFIGS["relu"], kind)
    doubled = weights | {
        "W_dec": 2 * weights["W_dec"] / weights["W_dec"].norm(dim=1, keepdim=True)
    }
    weighed = forward_of(CONFIGS["relu-decoder-norm"], doubled).penalty
    plain = forward_of(CONFIGS["relu"], doubled).penalty
    assert plain is not None
    torch.testing.assert_close(weighed, 2 * plain)


def test_l0_on_its_target_costs_nothing() -> None:
    reached = float(forward_of(CONFIGS["jumprelu"]).penalty or 0.0)
    config = changed("jumprelu-target", target_l0=reached)
    penalty = forward_of(config).penalty
    assert penalty is not None
    assert kinds.make(config).penalty_of(penalty, D_IN) == 0.0


def test_the_smooth_count_approaches_l0() -> None:
    config = changed("jumprelu-tanh", tanh_scale=1e4)
    torch.testing.assert_close(
        forward_of(config).penalty, forward_of(CONFIGS["jumprelu"]).penalty
    )


def test_dead_latents_are_pulled_up_to_their_thresholds() -> None:
    config = CONFIGS["jumprelu-tanh"]
    assert isinstance(config, JumpReLU)
    kind = kinds.make(config)
    weights = disturbed(config, kind)
    weights["b_enc"] = weights["b_enc"].index_fill(0, torch.tensor([3]), -50.0)
    weights = {key: value.requires_grad_() for key, value in weights.items()}
    batch = batch_of(kind, rows(BATCH))._replace(dead=torch.tensor([3]))
    penalty = kind.forward(weights, batch).penalty
    assert penalty is not None
    torch.autograd.backward(penalty)
    grad = weights["b_enc"].grad
    assert grad is not None
    assert float(grad[3]) == pytest.approx(-config.pre_act_coefficient)


def test_p_falls_in_ten_steps_and_never_reaches_its_end() -> None:
    assert isinstance(ANNEALED, ReLU)
    powers = [annealing.p(ANNEALED, step, 400) for step in range(400)]
    assert powers[:100] == [1.0] * 100
    assert len(set(powers)) == 10
    assert powers == sorted(powers, reverse=True)
    assert powers[-1] == pytest.approx(0.1)


def test_annealing_keeps_the_pressure_where_p_falls() -> None:
    x = rows(20 * BATCH)
    steps = 100
    member = trained_by(member_of(ANNEALED, x, steps), x, 25 + 8)
    kind = kind_of("relu-annealed")
    pressures = []
    for step in (32, 33):  # p falls between them
        tensors = member.state().tensors
        averages = {name: tensors[f"averages.{name}"] for name in kind.averages}
        weights = {
            name.removeprefix("weights."): tensor
            for name, tensor in tensors.items()
            if name.startswith("weights.")
        }
        batch = batch_of(kind, x[:BATCH])._replace(
            step=step, num_steps=steps, averages=averages
        )
        pressures.append(float(kind.forward(weights, batch).penalty or 0.0))
        trained_by(member, x, step + 2)
    assert isinstance(ANNEALED, ReLU)
    assert annealing.p(ANNEALED, 32, steps) > annealing.p(ANNEALED, 33, steps)
    assert pressures[1] == pytest.approx(pressures[0], rel=0.2)


@pytest.mark.parametrize("name", ["topk-annealed", "batchtopk"])
def test_k_turns_evenly_from_its_start_into_k(name: str) -> None:
    config = changed(name, k=2, k_start=8, k_anneal_fraction=0.5)
    assert isinstance(config, TopK | BatchTopK | Matryoshka)
    found = [topk.k_at(config, step, 24) for step in range(24)]
    assert found[0] == 8
    assert found[12:] == [2] * 12
    assert found == sorted(found, reverse=True)


def test_topk_keeps_at_most_k_latents_a_row() -> None:
    code = forward_of(CONFIGS["topk"]).code
    assert code.support is not None
    assert int(torch.bincount(code.support.rows).max()) == 2


def test_batchtopk_keeps_k_times_batch_pairs() -> None:
    assert len(forward_of(CONFIGS["batchtopk"]).code.acts) == 2 * BATCH


def test_a_code_tells_alike_which_latents_fired_in_either_form() -> None:
    code = forward_of(CONFIGS["batchtopk"]).code
    assert code.support is not None
    dense = torch.zeros(BATCH, D_SAE)
    dense[code.support.rows, code.support.columns] = code.acts.detach()
    whole = type(code)(dense, None)
    assert torch.equal(code.fired(D_SAE), whole.fired(D_SAE))
    assert code.num_on() == whole.num_on()
