"""What each kind of SAE starts from and minimises."""

import torch
from torch.nn.functional import normalize

from tests.trilemma.kinds.samples import (
    BATCH,
    CONFIGS,
    D_IN,
    D_SAE,
    batch_of,
    kind_of,
    rows,
)
from trilemma import kinds, objective
from trilemma.config.saes import SAEConfig, TopK
from trilemma.kinds.kind import Batch, Weights

VARIANCE = 5.0


def start(config: SAEConfig, d_in: int = D_IN) -> Weights:
    kind = kinds.make(config)
    return objective.initial_weights(config, kind, d_in=d_in, b_dec=torch.zeros(d_in))


def terms_of(
    config: SAEConfig, x: torch.Tensor, **changes: object
) -> objective.BatchLoss:
    kind = kinds.make(config)
    batch: Batch = batch_of(kind, x)._replace(**changes)  # type: ignore[arg-type]
    return objective.of_batch(kind, start(config), batch, variance=VARIANCE)


def test_kinds_with_one_seed_start_from_the_same_directions() -> None:
    starts = [normalize(start(config)["W_dec"], dim=1) for config in CONFIGS.values()]
    for found in starts:
        torch.testing.assert_close(found, starts[0])


def test_rows_start_at_norm_one_or_short_where_they_are_free() -> None:
    for config in CONFIGS.values():
        norms = start(config)["W_dec"].norm(dim=1)
        norm = 1.0 if kinds.make(config).has_unit_decoder else 0.1
        torch.testing.assert_close(norms, torch.full((D_SAE,), norm))


def test_the_encoder_starts_along_the_decoder() -> None:
    for config in CONFIGS.values():
        weights = start(config)
        ratio = weights["W_enc"] / weights["W_dec"].t()
        torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio))


def test_the_encoder_starts_at_the_scale_with_the_least_error() -> None:
    x = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    for name, changes in {
        "relu": {"d_sae": 512},
        "topk": {"d_sae": 512, "k": 16},
        "tree": {"d_sae": 512, "num_roots": 32},
    }.items():
        config = CONFIGS[name].model_copy(update=changes)
        kind = kinds.make(config)
        x_hat = kind.forward(start(config, 64), batch_of(kind, x)).x_hat
        best = float((x_hat * x).sum() / x_hat.square().sum())
        assert abs(best - 1) < 0.05, name


def test_seeds_start_from_other_weights() -> None:
    other = CONFIGS["relu"].model_copy(update={"seed": 1})
    assert not torch.equal(start(CONFIGS["relu"])["W_dec"], start(other)["W_dec"])


def test_the_loss_does_not_depend_on_the_batch_size() -> None:
    x = rows(BATCH)
    for name, config in CONFIGS.items():
        once, twice = terms_of(config, x), terms_of(config, torch.cat([x, x]))
        torch.testing.assert_close(once.loss, twice.loss, msg=name)


def test_penalties_are_divided_by_the_width() -> None:
    terms = terms_of(CONFIGS["jumprelu"], rows(BATCH))
    l0 = float(terms.forward.code.num_on()) / BATCH
    torch.testing.assert_close(terms.loss, terms.fvu + 0.5 * l0 / D_IN)


def test_dead_latents_add_auxk_to_the_loss() -> None:
    terms = terms_of(CONFIGS["topk"], rows(BATCH), dead=torch.tensor([0, 5]))
    assert float(terms.loss) > float(terms.fvu)


def test_kinds_without_auxk_leave_dead_latents() -> None:
    terms = terms_of(CONFIGS["relu"], rows(BATCH), dead=torch.tensor([0, 5]))
    assert terms.loss == terms_of(CONFIGS["relu"], rows(BATCH)).loss


def test_sparsity_is_turned_up_over_the_warmup() -> None:
    found = [kind_of("relu").coefficient_at(step, 40) for step in (0, 1, 2, 39)]
    assert found == [0.25, 0.5, 0.5, 0.5]


def test_a_warmup_of_nothing_starts_at_the_peak() -> None:
    config = CONFIGS["relu"].model_copy(update={"sparsity_warmup_fraction": 0.0})
    assert kinds.make(config).coefficient_at(0, 40) == 0.5


def test_topk_has_no_sparsity_coefficient() -> None:
    assert kind_of("topk").coefficient_at(0, 40) == 0.0


def test_a_frozen_decoder_is_not_trained() -> None:
    frozen = TopK(kind="topk", d_sae=12, k=3, freeze_decoder=True)
    assert not objective.is_trained(frozen, "W_dec")
    assert objective.is_trained(frozen, "W_enc")
