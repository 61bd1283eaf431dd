"""Every setting of a kind, and of a step, changes the SAE that comes of it."""

from typing import Any, get_args

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
from trilemma.config.saes import SAEConfig
from trilemma.config.training import Training
from trilemma.sae import SAE
from trilemma.training import Member

STEPS = 30
RESAMPLED = {"resample_every_steps": 4, "resample_until_fraction": 0.7}
K_CHANGES: list[dict[str, Any]] = [
    {"k": 3},
    {"k_start": 4, "k_anneal_fraction": 0.5},
    {"k_anneal_fraction": 0.25, "k_start": 8},
    {"auxk_coefficient": 1.0},
    {"inference": "matching_pursuit"},
]
# Of each sample what is changed of it, the setting that is tried first.
CHANGES: dict[str, list[dict[str, Any]]] = {
    "relu": [
        {"l1_coefficient": 1.0},
        {"sparsity_warmup_fraction": 0.5},
        {"penalty": "l1_decoder_norm"},
    ],
    "relu-lp": [{"p": 0.7}],
    "relu-annealed": [{"p_end": 0.5}, {"p_anneal_start_fraction": 0.75}],
    "relu-log": [{"log_scale": 1.0}],
    "gated": [{"l1_coefficient": 1.0}, {"sparsity_warmup_fraction": 0.5}],
    "group": [
        {"l1_coefficient": 1.0},
        {"sparsity_warmup_fraction": 0.5},
        {"group_size": 8},
    ],
    "tree": [
        {"l1_coefficient": 1.0},
        {"sparsity_warmup_fraction": 0.5},
        {"num_roots": 8},
        {"branching": 3},
    ],
    "jumprelu": [
        {"l0_coefficient": 1.0},
        {"sparsity_warmup_fraction": 0.5},
        {"penalty": "tanh", "tanh_scale": 4.0, "pre_act_coefficient": 0.0},
        {"threshold_init": 0.2},
        {"bandwidth": 0.5},
        {"target_l0": 3.0},
    ],
    "jumprelu-tanh": [{"tanh_scale": 8.0}, {"pre_act_coefficient": 1.0}],
    "topk": [
        *K_CHANGES,
        {"freeze_decoder": True},
        # Those that kinds do not see.
        {"lr": 5e-3},
        {"seed": 1},
        {"d_sae": 32},
        {"decoder_bias": False},
        {"terms": {"incoherence": {"coefficient": 0.1}}},
        RESAMPLED,
        {"resample_until_fraction": 0.2, "resample_every_steps": 4},
    ],
    "batchtopk": [*K_CHANGES, {"threshold_decay": 0.5}],
    "matryoshka": [*K_CHANGES, {"threshold_decay": 0.5}, {"widths": (16, 64)}],
}
# What it is to be compared with, where that is not the sample itself.
BASES: dict[str, dict[str, Any]] = {
    "k_anneal_fraction": {"k_start": 8, "k_anneal_fraction": 0.5},
    "resample_until_fraction": RESAMPLED,
}
# Settings that every kind has, tried on one; and what is about hooks, which
# test_transcoders.py and test_crosscoders.py try.
OF_ALL = {"lr", "seed", "d_sae", "decoder_bias", "terms", *RESAMPLED}
OF_HOOKS = {"kind", "hook", "target_hook", "skip"}
OF_STEPS: dict[str, Any] = {
    "precision": "bfloat16",
    "warmup_fraction": 0.5,
    "decay_fraction": 0.5,
    "beta1": 0.5,
    "beta2": 0.9,
    "clip_norm": 0.1,
    "dead_after_tokens": 5 * BATCH,
    "ema_decay": 0.9,
}
# Which rows there are, in what order, and where b_dec starts.
OF_ROWS = {"batch_tokens", "b_dec_init", "epochs", "seed", "open_chunks"}
# What is told and kept on the way.
OF_RECORDS = {
    "log_every_steps",
    "eval_every_steps",
    "eval_tokens",
    "checkpoint_every_steps",
}
CASES = [(name, change) for name, each in CHANGES.items() for change in each]
KINDS = get_args(get_args(SAEConfig)[0])


def tried(change: dict[str, Any]) -> str:
    return next(iter(change))


def trained(name: str, change: dict[str, Any], shared: Training = SHARED) -> SAE:
    config = CONFIGS[name]
    changed = type(config).model_validate(config.model_dump() | change)
    x = rows(STEPS * BATCH)
    member = Member(
        changed, shared, start=start_of(x), num_steps=STEPS, key="one", device="cpu"
    )
    return trained_by(member, x, STEPS).export()


def is_same(one: SAE, other: SAE) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(
        torch.equal(tensor, second[key]) for key, tensor in first.items()
    )


@pytest.mark.parametrize(
    ("name", "change"), CASES, ids=[f"{name}-{tried(each)}" for name, each in CASES]
)
def test_a_setting_changes_what_is_trained(name: str, change: dict[str, Any]) -> None:
    base = BASES.get(tried(change), {})
    assert not is_same(trained(name, base), trained(name, change))


@pytest.mark.parametrize("key", OF_STEPS)
def test_a_setting_of_steps_changes_what_is_trained(key: str) -> None:
    shared = SHARED.model_copy(update={key: OF_STEPS[key]})
    assert not is_same(trained("topk", {}), trained("topk", {}, shared))


def test_an_sae_is_the_same_where_nothing_is_changed() -> None:
    assert is_same(trained("topk", {}), trained("topk", {}))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_setting_of_a_kind_is_tried(kind: type[Any]) -> None:
    found = {tried(each) for name, each in CASES if type(CONFIGS[name]) is kind}
    assert set(kind.model_fields) == OF_HOOKS | OF_ALL | found


def test_every_setting_of_all_kinds_is_tried() -> None:
    assert {tried(each) for name, each in CASES if name == "topk"} >= OF_ALL


def test_every_setting_of_steps_is_tried() -> None:
    assert set(Training.model_fields) == OF_STEPS.keys() | OF_ROWS | OF_RECORDS
