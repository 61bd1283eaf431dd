"""Artifacts: keys, the commit, states, and what damage looks like."""

import json
from pathlib import Path

import pytest

from storage import artifacts, durable, locks


def commit(
    folder: Path,
    parents: dict[str, artifacts.Parent] | None = None,
    known: dict[str, artifacts.File] | None = None,
):
    return artifacts.commit(
        folder,
        stage="harvest",
        key=folder.name,
        version=1,
        config={"a": 1},
        parents=parents or {},
        known=known or {},
    )


def location(tmp_path: Path) -> artifacts.Location:
    return artifacts.Location(tmp_path, "harvest", "0123456789abcdef")


@pytest.fixture
def made(tmp_path):
    where = location(tmp_path)
    (where.folder / "deep").mkdir(parents=True)
    (where.folder / "deep" / "x.txt").write_text("one")
    (where.folder / "y.txt").write_text("two")
    commit(where.folder)
    return where


def test_key_does_not_depend_on_the_order_of_settings():
    first = artifacts.key_of("lm", 1, {"a": 1, "b": 2}, {"p": "x", "q": "y"})
    second = artifacts.key_of("lm", 1, {"b": 2, "a": 1}, {"q": "y", "p": "x"})
    assert first == second


@pytest.mark.parametrize(
    "change",
    [
        ("corpus", 1, {"a": 1}, {}),
        ("lm", 2, {"a": 1}, {}),
        ("lm", 1, {"a": 2}, {}),
        ("lm", 1, {"a": 1}, {"p": "x"}),
    ],
)
def test_key_depends_on_everything_that_decides_the_bytes(change):
    assert artifacts.key_of(*change) != artifacts.key_of("lm", 1, {"a": 1}, {})


def test_manifest_lists_every_file_but_itself_and_the_run_record(made):
    durable.write_json(made.folder / artifacts.RUN, {})
    manifest = artifacts.read_manifest(made.folder)
    assert sorted(manifest.files) == ["deep/x.txt", "y.txt"]


def test_commit_is_refused_while_a_file_that_was_written_is_missing(tmp_path):
    known = {"lost.bin": artifacts.File(bytes=3, sha256="0" * 64)}
    with pytest.raises(artifacts.ArtifactError, match=r"lost\.bin: missing"):
        commit(tmp_path, known=known)
    assert artifacts.read_manifest(tmp_path) is None


def test_digest_is_that_of_sorted_paths_and_hashes(made):
    manifest = artifacts.read_manifest(made.folder)
    pairs = [
        [name, durable.sha256(made.folder / name)] for name in sorted(manifest.files)
    ]
    text = json.dumps(pairs, separators=(",", ":"))
    import hashlib

    assert manifest.digest == hashlib.sha256(text.encode()).hexdigest()


def test_untouched_artifact_shows_no_damage(made):
    assert artifacts.damage(made.folder, artifacts.read_manifest(made.folder)) == []


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "y.txt").unlink(), "y.txt: missing"),
        (lambda f: (f / "y.txt").write_text("tw"), "2 bytes instead of 3"),
        (lambda f: (f / "y.txt").write_text("twO"), "its bytes have changed"),
        (lambda f: (f / "z.txt").write_text("?"), "is not in the manifest"),
    ],
)
def test_damage_names_the_file_and_what_is_wrong(made, break_it, message):
    break_it(made.folder)
    (line,) = artifacts.damage(made.folder, artifacts.read_manifest(made.folder))
    assert message in line


def test_missing_file_is_refused_without_reading_the_others(made):
    (made.folder / "y.txt").unlink()
    with pytest.raises(artifacts.ArtifactError, match=r"y\.txt: missing"):
        artifacts.check_sizes(made.folder, artifacts.read_manifest(made.folder))


def test_torn_manifest_is_an_error_that_says_what_to_do(made):
    (made.folder / artifacts.MANIFEST).write_text("{")
    with pytest.raises(
        artifacts.ArtifactError, match=r"delete .* and run the stage again"
    ):
        artifacts.read_manifest(made.folder)


def test_state_is_missing_before_anything(tmp_path):
    assert artifacts.state_of(location(tmp_path), {}) == "missing"


def test_state_is_partial_for_a_folder_without_a_manifest(tmp_path):
    location(tmp_path).folder.mkdir(parents=True)
    assert artifacts.state_of(location(tmp_path), {}) == "partial"


def test_state_is_failed_where_a_failure_was_recorded(tmp_path):
    where = location(tmp_path)
    where.folder.mkdir(parents=True)
    (where.folder / artifacts.FAILED).write_text("{}")
    assert artifacts.state_of(where, {}) == "failed"


def test_state_is_running_while_the_lock_is_held(tmp_path):
    where = location(tmp_path)
    where.folder.mkdir(parents=True)
    with locks.holding([where.lock], lambda path: None):
        assert artifacts.state_of(where, {}) == "running"


def test_state_is_stale_once_a_parent_has_another_digest(tmp_path):
    where = location(tmp_path)
    where.folder.mkdir(parents=True)
    old = artifacts.Parent(key="k", digest="old")
    commit(where.folder, {"corpus": old})
    assert artifacts.state_of(where, {"corpus": old}) == "done"
    new = artifacts.Parent(key="k", digest="new")
    assert artifacts.state_of(where, {"corpus": new}) == "stale"


def test_state_stays_done_while_a_parent_is_gone(tmp_path):
    where = location(tmp_path)
    where.folder.mkdir(parents=True)
    commit(where.folder, {"corpus": artifacts.Parent(key="k", digest="d")})
    assert artifacts.state_of(where, {"corpus": None}) == "done"


def test_swap_replaces_the_artifact_by_the_one_made_aside(made):
    made.aside.mkdir()
    (made.aside / "new.txt").write_text("three")
    artifacts.swap(made)
    assert [path.name for path in made.folder.iterdir()] == ["new.txt"]
    assert not made.aside.exists()


def make_aside(where):
    where.aside.mkdir()
    (where.aside / "new.txt").write_text("three")
    artifacts.commit(
        where.aside,
        stage="harvest",
        key=where.key,
        version=1,
        config={},
        parents={},
        known={},
    )


@pytest.mark.parametrize("is_whole", [True, False])
def test_swap_cut_short_by_a_kill_is_finished(made, is_whole):
    if is_whole:
        make_aside(made)
    made.folder.rename(made.old)
    artifacts.recover(made)
    names = sorted(artifacts.read_manifest(made.folder).files)
    assert names == (["new.txt"] if is_whole else ["deep/x.txt", "y.txt"])
    assert not made.old.exists()


def test_there_is_nothing_to_recover_after_a_whole_swap(made):
    make_aside(made)
    artifacts.swap(made)
    artifacts.recover(made)
    assert sorted(artifacts.read_manifest(made.folder).files) == ["new.txt"]


def test_replacing_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "x.json"
    durable.write_text(path, "old")
    with pytest.raises(RuntimeError), durable.replacing(path) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
