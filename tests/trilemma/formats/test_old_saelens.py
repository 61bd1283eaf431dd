"""SAELens folders from before its version 6, as published SAEs have them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.trilemma.formats.samples import an_sae
from trilemma.formats import saelens
from trilemma.sae import SAE


def old_folder(folder: Path, **config: Any) -> Path:
    an_sae("relu").save(folder)
    (folder / saelens.CONFIG_FILE).write_text(json.dumps(config))
    return folder


def test_a_hook_that_has_another_name_there_is_kept(tmp_path: Path) -> None:
    told = {"hook_point": "blocks.8.hook_resid_pre", "model_name": "gpt2-small"}
    assert SAE.load(old_folder(tmp_path, **told)).metadata == {
        "hook_name": "blocks.8.hook_resid_pre",
        "model_name": "gpt2-small",
    }


@pytest.mark.parametrize("key", ["activation_fn", "activation_fn_str"])
def test_an_activation_function_that_is_not_ours_is_refused(
    key: str, tmp_path: Path
) -> None:
    old_folder(tmp_path, **{key: "tanh-relu"})
    with pytest.raises(ValueError) as caught:
        SAE.load(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/cfg.json: found activation_fn 'tanh-relu'; only 'relu' and "
        "'topk' can be read"
    )


def test_a_scaling_factor_of_ones_is_read_and_another_refused(tmp_path: Path) -> None:
    path = old_folder(tmp_path) / saelens.WEIGHTS_FILE
    tensors = load_file(path)
    save_file(tensors | {"scaling_factor": torch.ones(16)}, path)
    assert torch.equal(SAE.load(tmp_path).W_enc, tensors["W_enc"])
    save_file(tensors | {"scaling_factor": torch.full((16,), 2.0)}, path)
    with pytest.raises(ValueError) as caught:
        SAE.load(tmp_path)
    assert str(caught.value) == (
        f"{path}: found a scaling_factor other than 1, which cannot be read; use an "
        "SAE without fine-tuning"
    )
