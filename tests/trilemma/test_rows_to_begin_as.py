"""SAEs whose latents begin as rows of the data."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tests.trilemma.kinds.samples import CONFIGS, D_IN, D_SAE, SHARED, rows, start_of
from trilemma import kinds, objective
from trilemma.config.saes import SAEConfig
from trilemma.kinds.kind import Weights
from trilemma.training import Member

AS_ROWS = ("topk", "batchtopk", "matryoshka")
OFFSET = 2.0


def begun(
    config: SAEConfig, first_rows: Tensor | None, target: Tensor | None = None
) -> Weights:
    """Return the weights of a member before its first step; its data has a mean."""
    member = Member(
        config,
        SHARED,
        start=start_of(data()),
        target_start=None if target is None else start_of(target),
        num_steps=10,
        key="one",
        device="cpu",
        first_rows=first_rows,
    )
    return {name: weight.detach() for name, weight in member.weights.items()}


def data(num: int = 8 * D_SAE) -> Tensor:
    return rows(num) + OFFSET


def cosines(weights: Weights, x: Tensor) -> Tensor:
    return weights["W_dec"] @ normalize(x, dim=1).t()


def are_equal(first: Weights, second: Weights) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_latents_begin_as_rows_less_their_mean_each_as_another() -> None:
    x = data()
    for kind in AS_ROWS:
        nearest = cosines(begun(CONFIGS[kind], x), x - x.mean(0)).max(dim=1)
        assert nearest.values.min() > 0.98, kind
        assert len(nearest.indices.unique()) == D_SAE, kind


def test_without_a_bias_latents_begin_as_the_rows_themselves() -> None:
    config = CONFIGS["topk"].model_copy(update={"decoder_bias": False})
    assert cosines(begun(config, data()), data()).amax(1).min() > 0.98


def test_other_kinds_begin_at_random_whatever_rows_there_are() -> None:
    frozen = CONFIGS["topk"].model_copy(update={"freeze_decoder": True})
    for config in (frozen, *CONFIGS.values()):
        as_random = are_equal(begun(config, data()), begun(config, None))
        assert as_random == (config is frozen or config.kind not in AS_ROWS)


def test_a_transcoder_begins_at_random_whatever_rows_there_are() -> None:
    config = CONFIGS["topk"].model_copy(update={"target_hook": "later"})
    target = torch.randn(8 * D_SAE, D_IN, generator=torch.Generator().manual_seed(3))
    assert objective.rows_wanted(config, kinds.make(config)) == 0
    assert are_equal(begun(config, data(), target), begun(config, None, target))


def test_an_sae_begins_alike_however_many_rows_are_given_beyond_those_wanted() -> None:
    config = CONFIGS["topk"]
    wanted = objective.rows_wanted(config, kinds.make(config))
    assert D_SAE < wanted < len(data())
    assert are_equal(begun(config, data()[:wanted]), begun(config, data()))


def test_latents_that_begin_as_one_row_differ() -> None:
    weights = begun(CONFIGS["topk"], data(1))
    similar = weights["W_dec"] @ weights["W_dec"].t()
    assert similar.triu(1).max() < 1 - 1e-5


def test_seeds_begin_as_other_rows() -> None:
    x, other = data(), CONFIGS["topk"].model_copy(update={"seed": 1})
    first, second = (
        cosines(begun(config, x), x - x.mean(0)).argmax(1)
        for config in (CONFIGS["topk"], other)
    )
    assert not torch.equal(first.sort().values, second.sort().values)


def test_bfloat16_rows_do_as_well() -> None:
    x = data().bfloat16()
    assert are_equal(begun(CONFIGS["topk"], x), begun(CONFIGS["topk"], x.float()))
