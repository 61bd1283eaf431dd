"""Checkpoints: what was saved comes back, the last two stay, torn ones are ignored."""

import re

import pytest
import torch

from storage import checkpoints
from storage.checkpoints import Checkpoint, CheckpointError

KEY = "0123456789abcdef"


def checkpoint(step):
    return Checkpoint(
        step, {"w": torch.full((2, 3), step, dtype=torch.float64)}, {"curve": [1.5]}
    )


def test_latest_returns_what_was_saved_last(tmp_path):
    for step in (5, 20, 100):
        checkpoints.save(tmp_path, checkpoint(step), key=KEY)
    found = checkpoints.latest(tmp_path, key=KEY)
    assert found.step == 100
    assert torch.equal(found.tensors["w"], checkpoint(100).tensors["w"])
    assert found.values == {"curve": [1.5]}


def test_only_the_last_two_are_kept(tmp_path):
    for step in (5, 20, 100):
        checkpoints.save(tmp_path, checkpoint(step), key=KEY)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [20, 100]


def test_checkpoint_of_a_step_that_has_one_is_never_taken_away(tmp_path):
    checkpoints.save(tmp_path, checkpoint(5), key=KEY)
    before = (tmp_path / "0000000005").stat().st_ino
    checkpoints.save(tmp_path, checkpoint(5), key=KEY)
    assert (tmp_path / "0000000005").stat().st_ino == before


def test_checkpoint_cut_short_is_ignored_and_removed(tmp_path):
    checkpoints.save(tmp_path, checkpoint(5), key=KEY)
    (tmp_path / "aside-99").mkdir()
    (tmp_path / "aside-99" / "tensors.safetensors").write_bytes(b"half")
    assert checkpoints.latest(tmp_path, key=KEY).step == 5
    assert not (tmp_path / "aside-99").exists()


def test_there_is_none_before_the_first(tmp_path):
    assert checkpoints.latest(tmp_path / "checkpoints", key=KEY) is None


def test_checkpoint_of_another_config_or_version_is_an_error(tmp_path):
    checkpoints.save(tmp_path, checkpoint(5), key="f" * 16)
    line = (
        f"{tmp_path}/0000000005: was written by another version, or for another "
        f"config, than that of key {KEY}; delete {tmp_path} and run again"
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(line)}$"):
        checkpoints.latest(tmp_path, key=KEY)


def test_checkpoint_of_a_version_that_kept_no_key_is_an_error(tmp_path):
    checkpoints.save(tmp_path, checkpoint(5), key=KEY)
    (tmp_path / "0000000005" / "values.json").write_text('{"curve": [1.5]}')
    with pytest.raises(CheckpointError, match="was written by another version"):
        checkpoints.latest(tmp_path, key=KEY)


@pytest.mark.parametrize("name", ["tensors.safetensors", "values.json"])
def test_damaged_checkpoint_is_an_error_that_names_it(tmp_path, name):
    checkpoints.save(tmp_path, checkpoint(5), key=KEY)
    path = tmp_path / "0000000005" / name
    path.write_bytes(path.read_bytes()[:-3])
    line = rf"^{re.escape(str(tmp_path))}/0000000005: is damaged \(.*\); delete it and"
    with pytest.raises(CheckpointError, match=line):
        checkpoints.latest(tmp_path, key=KEY)
