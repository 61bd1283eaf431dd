"""What no format has words for, and folders that cannot be read: one line each."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.trilemma.formats.samples import an_sae, drawn
from trilemma.formats.folders import Format
from trilemma.formats.saelens import Activation
from trilemma.matching_pursuit import Pursuit
from trilemma.sae import SAE


@pytest.mark.parametrize("file_format", ["dictionary_learning", "sparsify"])
def test_a_crosscoder_is_refused_where_there_are_no_words_for_it(
    file_format: Format, tmp_path: Path
) -> None:
    sae = an_sae("topk")
    sae.widths = (2, 4)
    with pytest.raises(ValueError) as caught:
        sae.save(tmp_path, file_format)
    assert str(caught.value) == (
        f"{file_format}: found a crosscoder; choose saelens, in whose folders it has "
        "an architecture of our own"
    )
    assert not list(tmp_path.iterdir())
    sae.save(tmp_path)
    assert SAE.load(tmp_path).widths == (2, 4)


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "gated"])
def test_sparsify_has_only_topk(activation: Activation, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"sparsify: found an SAE with {activation}; "):
        an_sae(activation).save(tmp_path, "sparsify")


@pytest.mark.parametrize("activation", ["tree", "matching_pursuit"])
@pytest.mark.parametrize("file_format", ["dictionary_learning", "sparsify"])
def test_what_only_our_own_folders_hold_is_refused_elsewhere(
    file_format: Format, activation: Activation, tmp_path: Path
) -> None:
    is_tree = activation == "tree"
    sae = SAE(
        activation,
        W_enc=drawn(6, 16, seed=0),
        W_dec=drawn(16, 6, seed=1),
        b_dec=drawn(6, seed=2),
        b_enc=drawn(16, seed=3) if is_tree else None,
        parents=torch.arange(16) // 2 - 1 if is_tree else None,
        pursuit=None if is_tree else Pursuit(3, 0.0, stops_at_repeat=False),
    )
    line = f"^{file_format}: found an SAE with {activation}; .*, so choose saelens$"
    with pytest.raises(ValueError, match=line):
        sae.save(tmp_path / "sae", file_format)
    assert not (tmp_path / "sae").exists()


def test_an_archive_with_a_pickle_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "params.npz", W_enc=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"params\.npz: is no whole archive of plain"):
        SAE.load(tmp_path)


def test_a_folder_of_no_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_text("")
    message = r"found weights\.bin; an SAE can be read from SAELens: cfg\.json and sae"
    with pytest.raises(ValueError, match=message):
        SAE.load(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none: found no such folder; name one"):
        SAE.load(tmp_path / "none")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    an_sae("relu").save(tmp_path, "dictionary_learning")
    torch.save({"a": Path("x")}, tmp_path / "ae.pt")
    with pytest.raises(ValueError) as caught:
        SAE.load(tmp_path)
    # Not what torch says besides: how to run the code all the same.
    assert re.fullmatch(
        rf"{tmp_path}/ae\.pt: is no torch file of plain tensors \(Unsupported global: "
        r"GLOBAL pathlib\.\w+ was not an allowed global by default\); save the "
        "state_dict alone",
        str(caught.value),
    )


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "content", [b"", b"\x80", b"garbage", b"PK\x03\x04", b"\x80\x02e."]
)
def test_a_torch_file_that_is_damaged_is_refused_with_a_reason(
    content: bytes, tmp_path: Path
) -> None:
    an_sae("relu").save(tmp_path, "dictionary_learning")
    (tmp_path / "ae.pt").write_bytes(content)
    line = r"ae\.pt: is no torch file of plain tensors \([^\n]+\); save the state_dict"
    with pytest.raises(ValueError, match=line):
        SAE.load(tmp_path)


def test_a_torch_file_of_something_else_is_refused(tmp_path: Path) -> None:
    an_sae("relu").save(tmp_path, "dictionary_learning")
    torch.save([1, 2], tmp_path / "ae.pt")
    with pytest.raises(ValueError, match=r"ae\.pt: holds something else than named"):
        SAE.load(tmp_path)


def without_decoder_in_safetensors(folder: Path, file_format: Format) -> None:
    an_sae("topk").save(folder, file_format)
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    del tensors["W_dec"]
    save_file(tensors, path)


def without_decoder_in_torch_file(folder: Path) -> None:
    an_sae("relu").save(folder, "dictionary_learning")
    weights = torch.load(folder / "ae.pt", weights_only=True)
    del weights["decoder.weight"]
    torch.save(weights, folder / "ae.pt")


def without_decoder_in_archive(folder: Path) -> None:
    sae = an_sae("jumprelu")
    arrays = {name: w.detach().numpy() for name, w in sae.named_parameters()}
    del arrays["W_dec"]
    np.savez(folder / "params.npz", **arrays)


def without_decoder_in_openmoss(folder: Path) -> None:
    config = {"sae_type": "sae", "d_model": 6, "act_fn": "relu"}
    (folder / "config.json").write_text(json.dumps(config))
    weights = {"W_E": torch.ones(6, 16), "b_E": torch.ones(16), "b_D": torch.ones(6)}
    save_file(weights, folder / "sae_weights.safetensors")


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (partial(without_decoder_in_safetensors, file_format="saelens"), "W_dec"),
        (partial(without_decoder_in_safetensors, file_format="sparsify"), "W_dec"),
        (without_decoder_in_torch_file, r"bias, decoder\.weight"),
        (without_decoder_in_archive, "W_dec"),
        (without_decoder_in_openmoss, "W_D"),
    ],
)
def test_a_missing_tensor_is_named(
    write: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    write(tmp_path)
    with pytest.raises(ValueError, match=f": found tensors [^;]*; .* has .*{name}, "):
        SAE.load(tmp_path)


def with_openmoss_config(folder: Path) -> None:
    sae = an_sae("topk")
    names = {"W_enc": "W_E", "b_enc": "b_E", "W_dec": "W_D", "b_dec": "b_D"}
    tensors = {names[n]: w.detach() for n, w in sae.named_parameters()}
    save_file(tensors, folder / "sae_weights.safetensors")
    config = {"sae_type": "sae", "act_fn": "topk", "top_k": 3}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("k", [None, 0, 17, 2.5, "3"])
@pytest.mark.parametrize(
    ("write", "name", "key"),
    [
        (partial(an_sae("topk").save, file_format="saelens"), "cfg.json", "k"),
        (partial(an_sae("topk").save, file_format="sparsify"), "cfg.json", "k"),
        (with_openmoss_config, "config.json", "top_k"),
    ],
)
def test_a_k_that_no_row_can_have_is_refused(
    write: Callable[[Path], None], name: str, key: str, k: object, tmp_path: Path
) -> None:
    write(tmp_path)
    path = tmp_path / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: k}))
    with pytest.raises(ValueError) as caught:
        SAE.load(tmp_path)
    assert str(caught.value) == (
        f"{path}: found {key} {k!r}; it is a whole number from 1 to 16"
    )


@pytest.mark.parametrize("k", [torch.tensor(17), torch.tensor([3, 3])])
def test_a_k_of_a_torch_file_that_no_row_can_have_is_refused(
    k: torch.Tensor, tmp_path: Path
) -> None:
    an_sae("topk").save(tmp_path, "dictionary_learning")
    weights = torch.load(tmp_path / "ae.pt", weights_only=True)
    torch.save(weights | {"k": k}, tmp_path / "ae.pt")
    line = r"ae\.pt: found k .*; it is a whole number from 1 to 16$"
    with pytest.raises(ValueError, match=line):
        SAE.load(tmp_path)


@pytest.mark.parametrize(
    ("file_format", "name", "key"),
    [
        ("saelens", "cfg.json", "metadata"),
        ("dictionary_learning", "config.json", "trainer"),
        ("dictionary_learning", "config.json", "buffer"),
    ],
)
def test_a_part_of_a_config_that_is_no_object_is_refused(
    file_format: Format, name: str, key: str, tmp_path: Path
) -> None:
    an_sae("topk").save(tmp_path, file_format)
    path = tmp_path / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: "x"}))
    with pytest.raises(ValueError, match=rf"{name}: found {key} 'x'; it is a JSON obj"):
        SAE.load(tmp_path)


def with_openmoss_norms(folder: Path) -> None:
    norms = {"dataset_average_activation_norm.here": torch.ones(2)}
    config = {"sae_type": "sae", "act_fn": "relu"}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(norms, folder / "sae_weights.safetensors")


def with_thresholds_in_safetensors(folder: Path) -> None:
    an_sae("relu").save(folder)
    path = folder / "cfg.json"
    config = json.loads(path.read_text()) | {"architecture": "batchtopk"}
    path.write_text(json.dumps(config))
    path = folder / "sae_weights.safetensors"
    save_file(load_file(path) | {"topk_threshold": torch.ones(2)}, path)


def with_thresholds_in_torch_file(folder: Path) -> None:
    an_sae("topk").save(folder, "dictionary_learning")
    config = {"trainer": {"dict_class": "BatchTopKSAE"}}
    (folder / "config.json").write_text(json.dumps(config))
    weights = torch.load(folder / "ae.pt", weights_only=True)
    torch.save(weights | {"threshold": torch.ones(2)}, folder / "ae.pt")


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (with_openmoss_norms, "dataset_average_activation_norm.here"),
        (with_thresholds_in_safetensors, "topk_threshold"),
        (with_thresholds_in_torch_file, "threshold"),
    ],
)
def test_several_numbers_in_the_place_of_one_are_refused(
    write: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    write(tmp_path)
    line = rf": found {name} of shape \(2,\); it is one number, and finite$"
    with pytest.raises(ValueError, match=line):
        SAE.load(tmp_path)


def test_a_config_that_is_no_text_is_refused(tmp_path: Path) -> None:
    an_sae("topk").save(tmp_path)
    (tmp_path / "cfg.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"cfg\.json: is not JSON \("):
        SAE.load(tmp_path)


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    an_sae("topk").save(tmp_path)
    path = tmp_path / "sae_weights.safetensors"
    save_file(load_file(path) | {"b_dec": torch.zeros(5)}, path)
    with pytest.raises(ValueError, match=r"found b_dec of shape \(5,\); beside an"):
        SAE.load(tmp_path)


def test_an_unknown_dictionary_class_is_refused(tmp_path: Path) -> None:
    an_sae("topk").save(tmp_path, "dictionary_learning")
    config = {"trainer": {"dict_class": "IdentityDict"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"found trainer\.dict_class 'IdentityDict'; "):
        SAE.load(tmp_path)
