"""SAELens folders, as written and as read."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from trilemma.formats import saelens
from trilemma.formats.saelens import Activation, SAEFile
from trilemma.matching_pursuit import Pursuit


def a_file(activation: Activation = "topk") -> SAEFile:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "W_enc": torch.randn(3, 8, generator=generator),
        "b_enc": torch.randn(8, generator=generator),
        "W_dec": torch.randn(8, 3, generator=generator),
        "b_dec": torch.randn(3, generator=generator),
    }
    if activation == "jumprelu":
        tensors["threshold"] = torch.rand(8, generator=generator)
    if activation == "gated":
        tensors["b_gate"] = tensors.pop("b_enc")
        tensors["b_mag"] = torch.randn(8, generator=generator)
        tensors["r_mag"] = torch.randn(8, generator=generator)
    pursuit = None
    if activation == "matching_pursuit":
        pursuit = Pursuit(3, residual_threshold=0.5, stops_at_repeat=True)
        del tensors["b_enc"]
        tensors["W_enc"] = tensors["W_dec"].t().contiguous()
    k = 2 if activation == "topk" else None
    return SAEFile(activation, tensors, k, {"a": [1]}, pursuit)


def a_transcoder(activation: Activation, *, has_skip: bool) -> SAEFile:
    file = a_file(activation)
    generator = torch.Generator().manual_seed(1)
    tensors = file.tensors | {
        "W_dec": torch.randn(8, 5, generator=generator),
        "b_dec": torch.randn(5, generator=generator),
    }
    if has_skip:
        tensors["W_skip"] = torch.randn(3, 5, generator=generator)
    return file._replace(tensors=tensors, is_transcoder=True)


def a_crosscoder(activation: Activation) -> SAEFile:
    return a_file(activation)._replace(widths=(1, 2))


def change(folder: Path, **values: Any) -> None:
    path = folder / saelens.CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    "activation", ["relu", "topk", "jumprelu", "gated", "matching_pursuit"]
)
def test_what_was_written_is_read_back(tmp_path: Path, activation: Activation) -> None:
    file = a_file(activation)
    saelens.write(file, tmp_path)
    found = saelens.read(tmp_path)
    assert (found.activation, found.k) == (activation, file.k)
    assert found.pursuit == file.pursuit
    assert found.metadata["a"] == [1]
    assert found.tensors.keys() == file.tensors.keys()
    assert all(torch.equal(found.tensors[n], t) for n, t in file.tensors.items())


@pytest.mark.parametrize("has_skip", [False, True])
@pytest.mark.parametrize("activation", ["relu", "topk", "jumprelu", "gated"])
def test_a_transcoder_that_was_written_is_read_back(
    tmp_path: Path, activation: Activation, has_skip: bool
) -> None:
    file = a_transcoder(activation, has_skip=has_skip)
    saelens.write(file, tmp_path)
    found = saelens.read(tmp_path)
    assert (found.activation, found.k) == (activation, file.k)
    assert found.is_transcoder
    assert found.tensors.keys() == file.tensors.keys()
    assert all(torch.equal(found.tensors[n], t) for n, t in file.tensors.items())


@pytest.mark.parametrize("activation", ["relu", "topk", "jumprelu", "gated"])
def test_a_crosscoder_that_was_written_is_read_back(
    tmp_path: Path, activation: Activation
) -> None:
    file = a_crosscoder(activation)
    saelens.write(file, tmp_path)
    config = json.loads((tmp_path / saelens.CONFIG_FILE).read_text())
    assert config["architecture"] == f"trilemma_{activation}_crosscoder"
    found = saelens.read(tmp_path)
    assert (found.activation, found.k, found.widths) == (activation, file.k, (1, 2))
    assert all(torch.equal(found.tensors[n], t) for n, t in file.tensors.items())


@pytest.mark.parametrize("widths", [None, 3, [3, 1], [1.0, 2.0], [3, 0]])
def test_a_crosscoder_whose_widths_do_not_add_up_is_refused(
    tmp_path: Path, widths: object
) -> None:
    saelens.write(a_crosscoder("relu"), tmp_path)
    change(tmp_path, hook_widths=widths)
    with pytest.raises(ValueError) as caught:
        saelens.read(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: found hook_widths {widths!r}; they are a list of widths whose "
        "sum is d_in, which is 3"
    )


def test_a_transcoder_is_named_as_saelens_names_it(tmp_path: Path) -> None:
    names = {}
    for activation in ("relu", "jumprelu", "topk"):
        for has_skip in (False, True):
            saelens.write(a_transcoder(activation, has_skip=has_skip), tmp_path)
            config = json.loads((tmp_path / saelens.CONFIG_FILE).read_text())
            assert (config["d_in"], config["d_out"]) == (3, 5)
            assert config["apply_b_dec_to_input"] is False
            names[activation, has_skip] = config["architecture"]
    assert names == {
        ("relu", False): "transcoder",
        ("relu", True): "skip_transcoder",
        ("jumprelu", False): "jumprelu_transcoder",
        ("jumprelu", True): "jumprelu_skip_transcoder",
        ("topk", False): "trilemma_topk_transcoder",
        ("topk", True): "trilemma_topk_skip_transcoder",
    }


def test_a_transcoder_whose_tensors_do_not_fit_is_refused(tmp_path: Path) -> None:
    file = a_transcoder("relu", has_skip=True)
    file.tensors["W_skip"] = torch.zeros(3, 4)
    saelens.write(file, tmp_path)
    with pytest.raises(ValueError, match=r"found W_skip of shape \(3, 4\); beside an "):
        saelens.read(tmp_path)


def test_equal_saes_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        saelens.write(a_file(), tmp_path / name)
    for name in (saelens.CONFIG_FILE, saelens.WEIGHTS_FILE):
        first, second = tmp_path / "first" / name, tmp_path / "second" / name
        assert first.read_bytes() == second.read_bytes()


def test_the_metadata_name_a_version_that_keeps_them(tmp_path: Path) -> None:
    saelens.write(a_file(), tmp_path)
    config = json.loads((tmp_path / saelens.CONFIG_FILE).read_text())
    assert config["metadata"]["sae_lens_version"] == "6.54.0"
    assert config["rescale_acts_by_decoder_norm"] is False


def test_an_input_that_is_not_centred_is_folded(tmp_path: Path) -> None:
    file = a_file("relu")
    saelens.write(file, tmp_path)
    change(tmp_path, apply_b_dec_to_input=False)
    found, x = saelens.read(tmp_path).tensors, torch.randn(5, 3)
    pre_acts = (x - found["b_dec"]) @ found["W_enc"] + found["b_enc"]
    expected = x @ file.tensors["W_enc"] + file.tensors["b_enc"]
    torch.testing.assert_close(pre_acts, expected)


def test_activations_rescaled_by_decoder_norms_are_folded(tmp_path: Path) -> None:
    file = a_file("topk")
    saelens.write(file, tmp_path)
    change(tmp_path, rescale_acts_by_decoder_norm=True)
    found = saelens.read(tmp_path).tensors
    norm = file.tensors["W_dec"].norm(dim=1)
    torch.testing.assert_close(found["W_dec"].norm(dim=1), torch.ones(8))
    torch.testing.assert_close(found["b_enc"], file.tensors["b_enc"] * norm)


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: found no cfg\.json; the folder is"):
        saelens.read(tmp_path / "nowhere")


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    saelens.write(a_file(), tmp_path)
    (tmp_path / saelens.WEIGHTS_FILE).unlink()
    with pytest.raises(ValueError, match=r"found no sae_weights\.safetensors"):
        saelens.read(tmp_path)


def test_a_torn_weights_file_is_refused(tmp_path: Path) -> None:
    saelens.write(a_file(), tmp_path)
    path = tmp_path / saelens.WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        saelens.read(tmp_path)


def test_a_config_that_is_not_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / saelens.CONFIG_FILE).write_text("{")
    with pytest.raises(ValueError, match=r"cfg\.json: is not JSON"):
        saelens.read(tmp_path)


def test_a_config_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / saelens.CONFIG_FILE).write_text("[]")
    with pytest.raises(ValueError, match=r"cfg\.json: is not a JSON object"):
        saelens.read(tmp_path)


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    saelens.write(a_file(), tmp_path)
    change(tmp_path, architecture="temporal")
    message = "found architecture 'temporal'; one of 'standard', 'topk', 'jumprelu', "
    with pytest.raises(ValueError, match=message):
        saelens.read(tmp_path)


def test_activations_that_are_normalised_are_refused(tmp_path: Path) -> None:
    saelens.write(a_file(), tmp_path)
    change(tmp_path, normalize_activations="layer_norm")
    with pytest.raises(ValueError, match="normalize_activations='layer_norm'; only"):
        saelens.read(tmp_path)


def test_tensors_of_another_architecture_are_refused(tmp_path: Path) -> None:
    saelens.write(a_file("relu"), tmp_path)
    change(tmp_path, architecture="jumprelu")
    with pytest.raises(
        ValueError, match="found tensors W_dec, W_enc, b_dec, b_enc; an"
    ):
        saelens.read(tmp_path)


def test_a_config_from_before_version_6_is_read(tmp_path: Path) -> None:
    saelens.write(a_file("relu"), tmp_path)
    old = {
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 3},
        "normalize_activations": False,
        "hook_name": "blocks.1.hook_resid_post",
    }
    (tmp_path / saelens.CONFIG_FILE).write_text(json.dumps(old))
    found = saelens.read(tmp_path)
    assert (found.activation, found.k) == ("topk", 3)
    assert found.metadata == {"hook_name": "blocks.1.hook_resid_post"}


@pytest.mark.parametrize("name", ["batchtopk", "matryoshka_batchtopk"])
def test_the_one_threshold_of_a_training_checkpoint_is_that_of_every_latent(
    name: str, tmp_path: Path
) -> None:
    file = a_file("relu")
    saelens.write(file, tmp_path)
    change(tmp_path, architecture=name, rescale_acts_by_decoder_norm=True)
    path = tmp_path / saelens.WEIGHTS_FILE
    threshold = {"topk_threshold": torch.tensor(0.3, dtype=torch.float64)}
    save_file(load_file(path) | threshold, path)
    found = saelens.read(tmp_path)
    assert found.activation == "jumprelu"
    # It is of activations times decoder norms, which the encoder then has.
    torch.testing.assert_close(found.tensors["threshold"], torch.full((8,), 0.3))
    norms = file.tensors["W_dec"].norm(dim=1)
    torch.testing.assert_close(found.tensors["W_enc"], file.tensors["W_enc"] * norms)


@pytest.mark.parametrize("parents", [[-1, 1, 0], [0, 0, 1], [-1, 0, -2]])
def test_parents_that_form_no_trees_are_refused(
    parents: list[int], tmp_path: Path
) -> None:
    weight = torch.eye(3)
    tensors = {
        "W_enc": weight,
        "b_enc": torch.zeros(3),
        "W_dec": weight.clone(),
        "b_dec": torch.zeros(3),
        "parents": torch.tensor(parents),
    }
    saelens.write(saelens.SAEFile("tree", tensors, None, {}), tmp_path)
    with pytest.raises(ValueError, match="found parents that form no trees; each is"):
        saelens.read(tmp_path)
