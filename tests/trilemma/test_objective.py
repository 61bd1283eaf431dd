"""What each kind of SAE starts from and minimises."""

import torch

from trilemma import codes, objective
from trilemma.config.saes import BatchTopK, JumpReLU, ReLU, SAEConfig, TopK

CONFIGS: list[SAEConfig] = [
    ReLU(kind="relu", d_sae=12, l1_coefficient=2.0),
    JumpReLU(kind="jumprelu", d_sae=12, l0_coefficient=2.0),
    TopK(kind="topk", d_sae=12, k=3),
    BatchTopK(kind="batchtopk", d_sae=12, k=3),
]
NONE_DEAD = torch.zeros(0, dtype=torch.int64)


def terms_of(
    config: SAEConfig, x: torch.Tensor, dead: torch.Tensor = NONE_DEAD
) -> objective.Terms:
    weights = objective.initial_weights(config, d_in=4, b_dec=torch.zeros(4))
    pre_acts = x @ weights["W_enc"]
    return objective.terms(
        config,
        weights,
        x=x,
        pre_acts=pre_acts,
        pairs=objective.support(config, weights, pre_acts),
        variance=4.0,
        coefficient=0.5,
        dead=dead,
    )


def test_kinds_with_one_seed_start_from_the_same_weights() -> None:
    starts = [
        objective.initial_weights(config, d_in=4, b_dec=torch.zeros(4))
        for config in CONFIGS
    ]
    assert all(torch.equal(s["W_dec"], starts[0]["W_dec"]) for s in starts)
    torch.testing.assert_close(starts[0]["W_dec"].norm(dim=1), torch.ones(12))


def test_the_encoder_starts_along_the_decoder() -> None:
    for config in CONFIGS:
        start = objective.initial_weights(config, d_in=4, b_dec=torch.zeros(4))
        ratio = start["W_enc"] / start["W_dec"].t()
        torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio))


def test_the_encoder_starts_at_the_scale_with_the_least_error() -> None:
    x = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    kinds: list[SAEConfig] = [
        ReLU(kind="relu", d_sae=512, l1_coefficient=2.0),
        TopK(kind="topk", d_sae=512, k=16),
    ]
    for config in kinds:
        start = objective.initial_weights(config, d_in=64, b_dec=torch.zeros(64))
        pre_acts = x @ start["W_enc"]
        pairs = objective.support(config, start, pre_acts)
        values = torch.relu(pre_acts[pairs.rows, pairs.columns])
        x_hat = codes.decode(values, start["W_dec"], support=pairs)
        best = float((x_hat * x).sum() / x_hat.square().sum())
        assert abs(best - 1) < 0.05


def test_seeds_start_from_other_weights() -> None:
    other = CONFIGS[0].model_copy(update={"seed": 1})
    first, second = (
        objective.initial_weights(config, d_in=4, b_dec=torch.zeros(4))
        for config in (CONFIGS[0], other)
    )
    assert not torch.equal(first["W_dec"], second["W_dec"])


def test_the_loss_does_not_depend_on_the_batch_size() -> None:
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    for config in CONFIGS:
        once, twice = terms_of(config, x), terms_of(config, torch.cat([x, x]))
        torch.testing.assert_close(once.loss, twice.loss)


def test_penalties_are_divided_by_the_width() -> None:
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    terms = terms_of(CONFIGS[1], x)
    l0 = float(terms.is_on.sum()) / 16
    torch.testing.assert_close(terms.loss, terms.fvu + 0.5 * l0 / 4)


def test_dead_latents_add_auxk_to_the_loss() -> None:
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    terms = terms_of(CONFIGS[2], x, torch.tensor([0, 5]))
    assert float(terms.loss) > float(terms.fvu)


def test_sparsity_is_turned_up_over_the_warmup() -> None:
    found = [
        objective.sparsity_coefficient(CONFIGS[0], step=step, num_steps=40)
        for step in (0, 1, 2, 39)
    ]
    assert found == [1.0, 2.0, 2.0, 2.0]


def test_a_warmup_of_nothing_starts_at_the_peak() -> None:
    config = CONFIGS[0].model_copy(update={"sparsity_warmup_fraction": 0.0})
    assert objective.sparsity_coefficient(config, step=0, num_steps=40) == 2.0


def test_topk_has_no_sparsity_coefficient() -> None:
    assert objective.sparsity_coefficient(CONFIGS[2], step=0, num_steps=40) == 0.0


def test_a_frozen_decoder_is_not_trained() -> None:
    frozen = TopK(kind="topk", d_sae=12, k=3, freeze_decoder=True)
    assert not objective.is_trained(frozen, "W_dec")
    assert objective.is_trained(frozen, "W_enc")
