"""The swap of an artifact made again, and what a kill in its midst leaves."""

import pytest

from storage import artifacts
from storage.home import Home
from storage.places import LocalPlace


@pytest.fixture
def local(tmp_path):
    """Return an artifact in a folder, committed."""
    where = artifacts.Location(Home(tmp_path), "harvest", "0123456789abcdef")
    make(where, where.folder, "old.txt")
    return where


def make(where, folder, name):
    folder.mkdir(parents=True)
    (folder / name).write_text("three")
    artifacts.commit(
        LocalPlace(folder),
        folder,
        stage="harvest",
        key=where.key,
        version=1,
        config={},
        parents={},
        known={},
    )


def test_swap_replaces_the_artifact_by_the_one_made_aside(local):
    local.aside.mkdir()
    (local.aside / "new.txt").write_text("three")
    artifacts.swap(local)
    assert [path.name for path in local.folder.iterdir()] == ["new.txt"]
    assert not local.aside.exists()


@pytest.mark.parametrize("is_whole", [True, False])
def test_swap_cut_short_by_a_kill_is_finished(local, is_whole):
    if is_whole:
        make(local, local.aside, "new.txt")
    local.folder.rename(local.old)
    artifacts.recover(local)
    names = sorted(artifacts.read_manifest(local.place).files)
    assert names == (["new.txt"] if is_whole else ["old.txt"])
    assert not local.old.exists()


def test_repetition_that_was_committed_but_not_swapped_is_removed(local):
    make(local, local.aside, "new.txt")
    artifacts.recover(local)
    assert sorted(artifacts.read_manifest(local.place).files) == ["old.txt"]
    assert not local.aside.exists()


def test_unfinished_repetition_is_kept_to_go_on_with(local):
    local.aside.mkdir()
    (local.aside / "half.txt").write_text("half")
    artifacts.recover(local)
    assert (local.aside / "half.txt").exists()


def test_what_a_finished_swap_leaves_is_removed(local):
    make(local, local.old, "older.txt")
    artifacts.recover(local)
    assert sorted(artifacts.read_manifest(local.place).files) == ["old.txt"]
    assert not local.old.exists()


def test_there_is_nothing_to_recover_after_a_whole_swap(local):
    make(local, local.aside, "new.txt")
    artifacts.swap(local)
    artifacts.recover(local)
    assert sorted(artifacts.read_manifest(local.place).files) == ["new.txt"]
