"""SAEs whose latents begin as rows of the data."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tests.trilemma.kinds.samples import CONFIGS, D_IN, D_SAE, SHARED, rows, start_of
from trilemma.config.saes import SAEConfig
from trilemma.kinds.kind import Weights
from trilemma.objective import rows_to_begin_as
from trilemma.training import Member

AS_ROWS = ("topk", "batchtopk", "matryoshka")
OFFSET = 2.0


def begun(config: SAEConfig, x: Tensor | None, target: Tensor | None = None) -> Weights:
    """Return the weights of a member before its first step; its data has a mean."""
    member = Member(
        config,
        SHARED,
        start=start_of(data()),
        target_start=None if target is None else start_of(target),
        num_steps=10,
        key="one",
        device="cpu",
        rows=None if x is None else x[rows_to_begin_as(config, len(x))],
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
    assert len(rows_to_begin_as(config, 1000)) == 0
    assert are_equal(begun(config, data(), target), begun(config, None, target))


def test_each_latent_has_a_row_of_its_own_from_the_first_sixteen_for_each() -> None:
    found = rows_to_begin_as(CONFIGS["topk"], 10**6)
    assert len(found) == D_SAE
    assert (found.diff() > 0).all()
    assert 8 * D_SAE < found.max() < 16 * D_SAE


def test_few_rows_are_all_taken() -> None:
    few = D_SAE // 2
    assert torch.equal(rows_to_begin_as(CONFIGS["topk"], few), torch.arange(few))


def test_seeds_have_a_sixteenth_of_their_rows_in_common() -> None:
    configs = [
        CONFIGS["topk"].model_copy(update={"d_sae": 1600, "seed": seed})
        for seed in range(2)
    ]
    first, second = (set(rows_to_begin_as(c, 10**6).tolist()) for c in configs)
    assert 50 < len(first & second) < 150


def test_latents_that_begin_as_one_row_differ() -> None:
    weights = begun(CONFIGS["topk"], data(1))
    similar = weights["W_dec"] @ weights["W_dec"].t()
    assert similar.triu(1).max() < 1 - 1e-5


def test_bfloat16_rows_do_as_well() -> None:
    x = data().bfloat16()
    assert are_equal(begun(CONFIGS["topk"], x), begun(CONFIGS["topk"], x.float()))
