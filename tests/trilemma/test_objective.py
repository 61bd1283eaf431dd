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


# Those whose latents begin as rows of the data.
AS_ROWS = ("topk", "batchtopk", "matryoshka")


def start(
    config: SAEConfig,
    d_in: int = D_IN,
    *,
    b_dec: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
) -> Weights:
    kind = kinds.make(config)
    b_dec = torch.zeros(d_in) if b_dec is None else b_dec
    return objective.initial_weights(config, kind, d_in=d_in, b_dec=b_dec, rows=rows)


def terms_of(config: SAEConfig, x: torch.Tensor, **changes: object) -> objective.Terms:
    kind = kinds.make(config)
    batch: Batch = batch_of(kind, x)._replace(**changes)  # type: ignore[arg-type]
    return objective.terms(kind, start(config), batch, variance=VARIANCE)


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


def test_latents_of_topk_kinds_begin_as_rows_less_b_dec() -> None:
    x, b_dec = rows(2 * D_SAE), torch.linspace(-1.0, 1.0, D_IN)
    for name, config in CONFIGS.items():
        if config.kind not in AS_ROWS:
            continue
        found = start(config, b_dec=b_dec, rows=x)["W_dec"]
        nearest = (found @ normalize(x - b_dec, dim=1).t()).max(dim=1)
        assert nearest.values.min() > 0.98, name
        assert len(nearest.indices.unique()) == D_SAE, name


def test_without_a_bias_latents_begin_as_the_rows_themselves() -> None:
    x, b_dec = rows(2 * D_SAE) + 3.0, torch.full((D_IN,), 3.0)
    config = CONFIGS["topk"].model_copy(update={"decoder_bias": False})
    found = start(config, b_dec=b_dec, rows=x)["W_dec"]
    assert (found @ normalize(x, dim=1).t()).amax(1).min() > 0.98


def test_latents_of_other_kinds_and_of_a_frozen_decoder_begin_at_random() -> None:
    frozen = CONFIGS["topk"].model_copy(update={"freeze_decoder": True})
    for config in (frozen, *CONFIGS.values()):
        found, plain = start(config, rows=rows(2 * D_SAE)), start(config)
        is_plain = all(torch.equal(found[name], plain[name]) for name in plain)
        assert is_plain == (config is frozen or config.kind not in AS_ROWS)


def test_an_sae_begins_alike_however_many_rows_wider_ones_need() -> None:
    x = rows(8 * D_SAE)
    few, many = (start(CONFIGS["topk"], rows=x[:num]) for num in (2 * D_SAE, len(x)))
    assert torch.equal(few["W_dec"], many["W_dec"])


def test_latents_that_begin_as_one_row_differ() -> None:
    found = start(CONFIGS["topk"], rows=rows(1))["W_dec"]
    assert (found @ found.t()).triu(1).max() < 1 - 1e-5


def test_seeds_begin_as_other_rows() -> None:
    x, other = rows(2 * D_SAE), CONFIGS["topk"].model_copy(update={"seed": 1})
    first, second = (
        (start(config, rows=x)["W_dec"] @ normalize(x, dim=1).t()).argmax(1)
        for config in (CONFIGS["topk"], other)
    )
    assert not torch.equal(first.sort().values, second.sort().values)


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
