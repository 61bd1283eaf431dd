"""Weights that other tools may leave in a folder: read as theirs, or refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.trilemma.formats.samples import an_sae, drawn
from trilemma.formats import openmoss, saelens
from trilemma.formats.saelens import Activation
from trilemma.sae import SAE


def of_openmoss(
    folder: Path, changes: dict[str, torch.Tensor], **settings: object
) -> None:
    names = {"W_enc": "W_E", "b_enc": "b_E", "W_dec": "W_D", "b_dec": "b_D"}
    weights = an_sae("relu").named_parameters()
    tensors = {names[name]: weight.detach() for name, weight in weights}
    if settings["act_fn"] == "jumprelu":
        tensors["activation_function.log_jumprelu_threshold"] = torch.zeros(16)
    save_file(tensors | changes, folder / openmoss.WEIGHTS_FILE)
    config = {"sae_type": "sae", "top_k": 3} | settings
    (folder / openmoss.CONFIG_FILE).write_text(json.dumps(config))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_no_real_numbers_are_refused(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    an_sae("topk").save(tmp_path)
    path = tmp_path / saelens.WEIGHTS_FILE
    save_file(load_file(path) | {"b_dec": torch.ones(6, dtype=dtype)}, path)
    with pytest.raises(ValueError) as caught:
        SAE.load(tmp_path)
    assert str(caught.value) == f"{path}: found b_dec of {dtype}; it is torch.float32"


def test_a_torch_file_of_sparse_tensors_is_refused(tmp_path: Path) -> None:
    an_sae("topk").save(tmp_path, "dictionary_learning")
    weights = torch.load(tmp_path / "ae.pt", weights_only=True)
    weights["decoder.weight"] = weights["decoder.weight"].to_sparse()
    torch.save(weights, tmp_path / "ae.pt")
    with pytest.raises(ValueError, match=r"ae\.pt: holds something else than named"):
        SAE.load(tmp_path)


def test_an_sae_without_latents_is_refused(tmp_path: Path) -> None:
    an_sae("relu").save(tmp_path)
    tensors = {"W_enc": torch.ones(6, 0), "W_dec": torch.ones(0, 6)}
    tensors |= {"b_enc": torch.ones(0), "b_dec": torch.ones(6)}
    save_file(tensors, tmp_path / saelens.WEIGHTS_FILE)
    with pytest.raises(ValueError, match=r"an encoder of shape \(6, 0\); it has two s"):
        SAE.load(tmp_path)


def test_a_decoder_row_of_zeros_stays_one_where_saelens_rescales(
    tmp_path: Path,
) -> None:
    sae = an_sae("topk")
    sae.W_dec.data[3] = 0
    sae.save(tmp_path)
    path = tmp_path / saelens.CONFIG_FILE
    config = json.loads(path.read_text()) | {"rescale_acts_by_decoder_norm": True}
    path.write_text(json.dumps(config))
    assert not bool(SAE.load(tmp_path).W_dec[3].any())


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "gated"])
def test_latents_of_other_kinds_are_never_rescaled(
    activation: Activation, tmp_path: Path
) -> None:
    sae, x = an_sae(activation), drawn(50, 6, seed=8)
    sae.save(tmp_path)
    path = tmp_path / saelens.CONFIG_FILE
    config = json.loads(path.read_text()) | {"rescale_acts_by_decoder_norm": True}
    path.write_text(json.dumps(config))
    assert torch.equal(SAE.load(tmp_path).encode(x), sae.encode(x))


@pytest.mark.parametrize("act_fn", ["topk", "jumprelu"])
def test_an_sae_of_openmoss_with_a_decoder_row_of_zeros_can_be_kept(
    act_fn: Activation, tmp_path: Path
) -> None:
    rows = drawn(16, 6, seed=1)
    rows[3] = 0
    of_openmoss(tmp_path, {"W_D": rows}, act_fn=act_fn)
    sae, x = SAE.load(tmp_path), drawn(50, 6, seed=8)
    sae.save(tmp_path / "kept")
    assert torch.equal(SAE.load(tmp_path / "kept")(x), sae(x))
    assert not bool(sae.encode(x)[:, 3].any())


@pytest.mark.parametrize("norm", [None, 0.0, -1.0])
def test_an_average_norm_that_is_missing_or_not_positive_is_refused(
    norm: float | None, tmp_path: Path
) -> None:
    name = "dataset_average_activation_norm.here"
    changes = {} if norm is None else {name: torch.tensor(norm)}
    settings = {"hook_point_in": "here", "norm_activation": "dataset-wise"}
    of_openmoss(tmp_path, changes, act_fn="relu", **settings)
    with pytest.raises(ValueError, match=f"found no positive {name} beside norm_activ"):
        SAE.load(tmp_path)


@pytest.mark.parametrize("act_fn", [None, ["relu"], "batchtopk"])
def test_an_activation_function_of_openmoss_that_is_not_ours_is_refused(
    act_fn: object, tmp_path: Path
) -> None:
    of_openmoss(tmp_path, {}, act_fn=act_fn)
    with pytest.raises(ValueError, match=r"found act_fn=.*; one of 'relu', 'topk', "):
        SAE.load(tmp_path)
