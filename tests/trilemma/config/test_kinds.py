"""What the settings of a kind of SAE refuse, each in one line."""

import pytest
from pydantic import TypeAdapter, ValidationError

from trilemma.config.saes import SAEConfig

ADAPTER: TypeAdapter[SAEConfig] = TypeAdapter(SAEConfig)
RELU = {"kind": "relu", "d_sae": 8, "l1_coefficient": 1.0}
JUMPRELU = {"kind": "jumprelu", "d_sae": 8, "l0_coefficient": 1.0}
TOPK = {"kind": "topk", "d_sae": 8, "k": 2}
MATRYOSHKA = {"kind": "matryoshka", "d_sae": 8, "k": 2}
GROUP = {"kind": "group", "d_sae": 8, "l1_coefficient": 1.0}
TREE = {"kind": "tree", "d_sae": 8, "l1_coefficient": 1.0, "branching": 2}
WRONG = [
    (TOPK | {"k": 9}, "k: found 9; must not exceed d_sae, which is 8"),
    (
        TOPK | {"k_start": 9, "k_anneal_fraction": 0.5},
        "k_start: found 9; must not exceed d_sae, which is 8",
    ),
    (
        TOPK | {"k_start": 2, "k_anneal_fraction": 0.5},
        "k_start: found 2, which is k; remove it",
    ),
    (
        JUMPRELU | {"target_l0": 9},
        "target_l0: found 9.0; must not exceed d_sae, which is 8",
    ),
    (
        JUMPRELU | {"target_l0": 2, "l0_coefficient": 0},
        "target_l0: has no effect with l0_coefficient 0",
    ),
    (TOPK | {"k_start": 4}, "k_start: goes with k_anneal_fraction; give both"),
    (TOPK | {"d_sae": 0}, "greater than 0"),
    (
        MATRYOSHKA | {"widths": [4, 2, 8]},
        r"widths: found \[4, 2, 8\]; they must rise and end at d_sae, which is 8",
    ),
    (
        MATRYOSHKA | {"widths": [2, 4]},
        r"widths: found \[2, 4\]; they must rise and end at d_sae, which is 8",
    ),
    (GROUP | {"group_size": 3}, "group_size: found 3; must divide d_sae, which is 8"),
    (TREE | {"num_roots": 9}, "num_roots: found 9; must not exceed d_sae, which is 8"),
    (RELU | {"penalty": "lp"}, "p: missing; it needs one with penalty 'lp'"),
    (RELU | {"penalty": "l1", "p": 0.5}, "p: has no effect with penalty 'l1'"),
    (RELU | {"penalty": "log"}, "log_scale: missing; it needs one with penalty 'log'"),
    (
        RELU | {"penalty": "lp", "p": 0.5, "p_end": 0.1},
        "p_end: goes with p_anneal_start_fraction; give both",
    ),
    (
        RELU
        | {"penalty": "lp", "p": 0.5, "p_end": 0.5, "p_anneal_start_fraction": 0.1},
        "p_end: found 0.5; must be below p",
    ),
    (
        RELU | {"resample_every_steps": 100},
        "resample_every_steps: goes with resample_until_fraction; give both",
    ),
    (
        TOPK
        | {
            "freeze_decoder": True,
            "resample_every_steps": 100,
            "resample_until_fraction": 0.5,
        },
        "resample_every_steps: has no effect with freeze_decoder",
    ),
    (
        JUMPRELU | {"penalty": "tanh", "tanh_scale": 4.0},
        "pre_act_coefficient: missing; it needs one with penalty 'tanh'",
    ),
    (RELU | {"skip": True}, "skip: has no effect without target_hook; remove it"),
    (
        TOPK | {"target_hook": "b", "inference": "matching_pursuit"},
        "inference: matching_pursuit finds codes in what is reconstructed, which a "
        "transcoder does not read; remove it or target_hook",
    ),
    (
        MATRYOSHKA
        | {"widths": [8], "inference": "matching_pursuit", "threshold_decay": 0.9},
        "threshold_decay: has no effect with inference 'matching_pursuit'",
    ),
    (
        TOPK | {"target_hook": "b", "terms": {"end_to_end": {"coefficient": 1.0}}},
        "terms.end_to_end: reads the activations of one hook alone; remove it or "
        "target_hook",
    ),
    (JUMPRELU | {"tanh_scale": 4.0}, "tanh_scale: has no effect with penalty 'step'"),
    (
        JUMPRELU
        | {
            "penalty": "tanh",
            "tanh_scale": 4.0,
            "pre_act_coefficient": 0.0,
            "target_l0": 4.0,
        },
        "target_l0: has no effect with penalty 'tanh'",
    ),
]


@pytest.mark.parametrize(("found", "line"), WRONG)
def test_settings_that_do_not_fit_are_refused(found: dict, line: str) -> None:
    with pytest.raises(ValidationError, match=line):
        ADAPTER.validate_python(found)


def test_settings_that_fit_are_taken() -> None:
    for found in (
        TOPK | {"k_start": 4, "k_anneal_fraction": 0.5},
        MATRYOSHKA | {"widths": [2, 8]},
        GROUP | {"group_size": 4},
        TREE | {"num_roots": 8},
        RELU | {"penalty": "lp", "p": 0.5},
        JUMPRELU | {"target_l0": 4.0},
        TOPK | {"resample_every_steps": 100, "resample_until_fraction": 0.5},
        MATRYOSHKA | {"widths": [2, 8], "target_hook": "b", "skip": True},
    ):
        config = ADAPTER.validate_python(found)
        assert config.model_dump(exclude_unset=True, mode="json") == found
