"""Checkpoints: what was saved comes back, the last two stay, torn ones are ignored."""

import torch

from storage import checkpoints
from storage.checkpoints import Checkpoint


def checkpoint(step):
    return Checkpoint(
        step, {"w": torch.full((2, 3), step, dtype=torch.float64)}, {"curve": [1.5]}
    )


def test_latest_returns_what_was_saved_last(tmp_path):
    for step in (5, 20, 100):
        checkpoints.save(tmp_path, checkpoint(step))
    found = checkpoints.latest(tmp_path)
    assert found.step == 100
    assert torch.equal(found.tensors["w"], checkpoint(100).tensors["w"])
    assert found.values == {"curve": [1.5]}


def test_only_the_last_two_are_kept(tmp_path):
    for step in (5, 20, 100):
        checkpoints.save(tmp_path, checkpoint(step))
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [20, 100]


def test_checkpoint_cut_short_is_ignored_and_removed(tmp_path):
    checkpoints.save(tmp_path, checkpoint(5))
    (tmp_path / "aside-99").mkdir()
    (tmp_path / "aside-99" / "tensors.safetensors").write_bytes(b"half")
    assert checkpoints.latest(tmp_path).step == 5
    assert not (tmp_path / "aside-99").exists()


def test_there_is_none_before_the_first(tmp_path):
    assert checkpoints.latest(tmp_path / "checkpoints") is None
