"""Folders of every format: found out, read and written."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.trilemma.formats.samples import an_sae, drawn
from trilemma import unit_rows
from trilemma.formats.folders import Format
from trilemma.formats.saelens import Activation
from trilemma.sae import SAE

ALL: tuple[Activation, ...] = ("relu", "topk", "jumprelu", "gated")
WRITTEN: list[tuple[Format, Activation]] = [
    *(("saelens", activation) for activation in ALL),
    *(("dictionary_learning", activation) for activation in ALL),
    ("sparsify", "topk"),
]


@pytest.mark.parametrize(("file_format", "activation"), WRITTEN)
def test_what_was_written_encodes_and_decodes_alike(
    file_format: Format, activation: Activation, tmp_path: Path
) -> None:
    sae, x = an_sae(activation), drawn(50, 6, seed=8)
    sae.save(tmp_path, file_format)
    found = SAE.load(tmp_path)
    torch.testing.assert_close(found.encode(x), sae.encode(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found(x), sae(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("is_unit", "name"), [(True, "AutoEncoder"), (False, "AutoEncoderNew")]
)
def test_latents_of_free_decoder_rows_are_written_where_no_loader_scales_them(
    is_unit: bool, name: str, tmp_path: Path
) -> None:
    sae = an_sae("relu")
    if is_unit:
        unit_rows.normalize(sae.W_dec.detach())
    sae.save(tmp_path, "dictionary_learning")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["trainer"]["dict_class"] == name


@pytest.mark.parametrize(("file_format", "activation"), WRITTEN)
def test_equal_saes_give_equal_bytes(
    file_format: Format, activation: Activation, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        an_sae(activation).save(tmp_path / name, file_format)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_gemma_scope_reads_an_input_that_is_not_centred(tmp_path: Path) -> None:
    sae, x = an_sae("jumprelu"), drawn(50, 6, seed=8)
    arrays = {name: w.detach().numpy() for name, w in sae.named_parameters()}
    np.savez(tmp_path / "params.npz", **arrays)
    assert sae.b_enc is not None
    pre_acts = x @ sae.W_enc + sae.b_enc
    expected = torch.relu(pre_acts) * (pre_acts > sae.threshold)
    found = SAE.load(tmp_path).encode(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("act_fn", ["relu", "topk", "jumprelu"])
@pytest.mark.parametrize("is_rescaled", [True, False])
def test_openmoss_is_read_by_its_own_formula(
    act_fn: Activation, is_rescaled: bool, tmp_path: Path
) -> None:
    sae, x = an_sae(act_fn), drawn(50, 6, seed=8)
    names = {"W_enc": "W_E", "b_enc": "b_E", "W_dec": "W_D", "b_dec": "b_D"}
    stored = {names[n]: w.detach() for n, w in sae.named_parameters() if n in names}
    if sae.threshold is not None:
        log = sae.threshold.detach().log()
        stored["activation_function.log_jumprelu_threshold"] = log
    stored["dataset_average_activation_norm.here"] = torch.tensor(4.0)
    save_file(stored, tmp_path / "sae_weights.safetensors")
    config = {"sae_type": "sae", "d_model": 6, "act_fn": act_fn, "top_k": 3}
    config |= {"hook_point_in": "here", "norm_activation": "dataset-wise"}
    config |= {"sparsity_include_decoder_norm": is_rescaled}
    (tmp_path / "config.json").write_text(json.dumps(config))
    norm = stored["W_D"].norm(dim=1) if is_rescaled else torch.ones(16)
    scale = 6**0.5 / 4.0
    z = (x * scale @ stored["W_E"] + stored["b_E"]) * norm
    floor = {
        "relu": torch.zeros(50, 1),
        "topk": z.topk(3).values[:, -1:] - 1e-6,
        "jumprelu": torch.zeros(1) if sae.threshold is None else sae.threshold,
    }[act_fn]
    acts = torch.relu(z) * (z > floor) / norm
    expected = (acts @ stored["W_D"] + stored["b_D"]) / scale
    found = SAE.load(tmp_path)(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_backup_of_a_training_is_read(tmp_path: Path) -> None:
    sae, x = an_sae("topk"), drawn(50, 6, seed=8)
    sae.save(tmp_path, "dictionary_learning")
    weights = torch.load(tmp_path / "ae.pt", weights_only=True)
    torch.save({"step": 7, "ae": weights, "config": {}}, tmp_path / "ae.pt")
    assert torch.equal(SAE.load(tmp_path).encode(x), sae.encode(x))


@pytest.mark.parametrize("file_format", ["saelens", "dictionary_learning", "sparsify"])
def test_whoever_can_read_one_file_of_a_folder_can_read_all(tmp_path, file_format):
    an_sae("topk").save(tmp_path / "sae", file_format)
    modes = {path.stat().st_mode for path in (tmp_path / "sae").iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize("file_format", ["saelens", "dictionary_learning", "sparsify"])
def test_an_encoder_that_is_the_decoder_transposed_is_written(
    file_format: Format, tmp_path: Path
) -> None:
    W, zeros = drawn(16, 6, seed=1), torch.zeros(16)
    sae = SAE("topk", W_enc=W.T, b_enc=zeros, W_dec=W, b_dec=torch.ones(6), k=3)
    sae.save(tmp_path, file_format)
    assert torch.equal(SAE.load(tmp_path).W_enc, W.T)
