"""The folder that holds an LM: what it must have, its digests, the hub's cache."""

import hashlib
import json
import shutil

import pytest
import torch
from huggingface_hub import constants

from trilemma import lm as library
from trilemma.lm import LM

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def load(folder):
    return LM.load(
        folder, dtype=torch.float32, device="cpu", processing="none", attention="eager"
    )


def test_a_missing_folder_is_named(tmp_path):
    for call in (
        library.folder_digest,
        library.load_tokenizer,
        library.tokenizer_digest,
        load,
    ):
        with pytest.raises(ValueError, match=r"^lm.path: no folder '.*nowhere' with"):
            call(tmp_path / "nowhere")


def test_a_folder_without_safetensors_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds no .safetensors file"):
        load(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(trained, tmp_path):
    config = (trained.folder / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=r"^lm.path: .* holds no tokenizer"):
        library.load_tokenizer(tmp_path)


def test_folder_digest_covers_weights_config_and_tokenizer(trained):
    digests = library.folder_digest(trained.folder)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(digests)
    weights = (trained.folder / "model.safetensors").read_bytes()
    assert digests["model.safetensors"] == hashlib.sha256(weights).hexdigest()


def test_tokenizer_digest_follows_the_tokenizer_and_nothing_else(trained, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(trained.folder, folder)
    before = library.tokenizer_digest(trained.folder)
    (folder / "model.safetensors").write_bytes(b"other weights")
    assert library.tokenizer_digest(folder) == before
    (folder / "tokenizer.json").write_text("{}")
    assert library.tokenizer_digest(folder) != before


def test_padding_is_a_token_of_its_own_or_none(trained):
    lm = load(trained.folder)
    assert lm.pad_id is None
    lm.tokenizer.pad_token = lm.tokenizer.eos_token
    assert lm.pad_id is None
    lm.tokenizer.add_special_tokens({"pad_token": "<pad>"})
    assert lm.pad_id == lm.tokenizer.convert_tokens_to_ids("<pad>")


def test_vocabulary_is_read_without_the_weights(trained):
    assert library.read_vocab_size(trained.folder) == 400


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Keep the hub's client off the network, with an empty cache of its own."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_full_commit_hash_resolves_to_itself(hub_cache):
    assert library.resolve_hub("some/model", COMMIT) == COMMIT


def test_a_branch_resolves_through_the_local_cache(hub_cache):
    folder = hub_cache / "models--some--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({}))
    assert library.resolve_hub("some/model", "main") == COMMIT
    assert library.download_hub("some/model", COMMIT) == snapshot


def test_a_model_that_cannot_be_asked_for_says_what_to_do(hub_cache):
    with pytest.raises(ValueError) as error:
        library.resolve_hub("some/model", "main")
    assert str(error.value) == (
        "lm.id: 'some/model' cannot be resolved without a network; set lm.revision to "
        "a commit hash in the local cache, or use lm.kind=local"
    )


def test_a_name_that_no_model_can_have_is_refused(hub_cache):
    with pytest.raises(ValueError, match=r"^lm.id: the hub gives no model 'a/b/c'"):
        library.resolve_hub("a/b/c", "main")
