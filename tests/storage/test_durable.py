"""What a crash may not take: files replaced at once, and folders that are known."""

import os

import pytest

from storage import artifacts, durable
from storage.places import LocalPlace


def test_folders_reach_the_disk_before_the_manifest(tmp_path, monkeypatch):
    synced = []

    def fsync(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(os, "fsync", fsync)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x.txt").write_text("one")
    artifacts.commit(
        LocalPlace(tmp_path),
        tmp_path,
        stage="harvest",
        key="0" * 16,
        version=1,
        config={},
        parents={},
        known={},
    )
    root = str(tmp_path)
    before = synced[: min(i for i, p in enumerate(synced) if "MANIFEST" in p)]
    assert {root, f"{root}/a", f"{root}/a/b"} <= set(before)


def test_replacing_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "x.json"
    durable.write_text(path, "old")
    with pytest.raises(RuntimeError), durable.replacing(path) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
