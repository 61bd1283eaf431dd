"""Artifacts: keys, the commit, states, and what damage looks like."""

import hashlib
import json
import uuid

import pytest

from storage import artifacts, durable, locks
from storage.home import Home
from storage.places import LocalPlace, open_place

LARGE = bytes(range(256)) * (9 << 12)


def commit(where, parents=None, known=None, config=None):
    """Commit what lies in the location's folder."""
    return artifacts.commit(
        where.place,
        where.folder,
        stage="harvest",
        key=where.key,
        version=1,
        config=config or {"a": 1},
        parents=parents or {},
        known=known or {},
    )


def location(home: Home) -> artifacts.Location:
    return artifacts.Location(home, "harvest", "0123456789abcdef")


def bucket() -> str:
    return f"memory://{uuid.uuid4()}/home"


@pytest.fixture(params=["folder", "bucket"])
def where(request, tmp_path):
    """Return where an artifact will lie, with an empty folder to work in."""
    url = bucket() if request.param == "bucket" else None
    found = location(Home(tmp_path / "home", url and open_place(url)))
    found.folder.mkdir(parents=True)
    return found


@pytest.fixture
def in_bucket(tmp_path):
    """Return a location in a bucket, and a function for the same on other machines."""
    url = bucket()

    def machine(name):
        found = location(Home(tmp_path / name, open_place(url)))
        found.folder.mkdir(parents=True)
        return found

    return machine


def fill(where):
    (where.folder / "deep").mkdir()
    (where.folder / "deep" / "x.txt").write_text("one")
    (where.folder / "y.txt").write_text("two")


@pytest.fixture
def made(where):
    fill(where)
    commit(where)
    return where


def test_manifest_lists_every_file_but_itself_and_the_run_record(where):
    durable.write_json(where.folder / artifacts.RUN, {})
    fill(where)
    commit(where)
    manifest = artifacts.read_manifest(where.place)
    assert sorted(manifest.files) == ["deep/x.txt", "y.txt"]


def test_commit_puts_every_file_and_the_run_record_in_the_place(where):
    durable.write_json(where.folder / artifacts.RUN, {"a": 1})
    fill(where)
    commit(where)
    assert where.place.get("deep/x.txt") == b"one"
    assert json.loads(where.place.get(artifacts.RUN)) == {"a": 1}


def test_file_of_many_blocks_and_an_empty_one_arrive_whole(where):
    (where.folder / "large.bin").write_bytes(LARGE)
    (where.folder / "empty.bin").write_bytes(b"")
    commit(where)
    assert where.place.get("large.bin") == LARGE
    assert where.place.get("empty.bin") == b""


def test_checkpoints_are_no_part_of_what_is_committed(where):
    fill(where)
    (where.folder / "checkpoints").mkdir()
    (where.folder / "checkpoints" / "1.bin").write_text("half")
    assert sorted(commit(where).manifest.files) == ["deep/x.txt", "y.txt"]


def test_commit_records_are_no_part_of_what_is_committed(where):
    fill(where)
    name = "train.commits/00000000.json"
    LocalPlace(where.folder).put(name, b"{}")
    LocalPlace(where.folder).put("other.commits", b"file")
    assert sorted(commit(where).manifest.files) == [
        "deep/x.txt",
        "other.commits",
        "y.txt",
    ]


def test_bucket_keeps_a_file_that_another_run_has_put_there(in_bucket):
    first, second = in_bucket("one"), in_bucket("two")
    first.place.put("y.txt", b"TWO")
    fill(second)
    with pytest.raises(artifacts.ArtifactError) as caught:
        commit(second)
    there, here = (hashlib.sha256(x).hexdigest()[:12] for x in (b"TWO", b"two"))
    assert str(caught.value) == (
        f"{second.place.url}/y.txt: another run has written other bytes here, of "
        f"SHA-256 {there} instead of {here}; delete {second.place.url} or use the same "
        "libraries, and run again"
    )
    assert first.place.get("y.txt") == b"TWO"
    assert artifacts.read_manifest(second.place) is None


def test_upload_that_was_cut_short_is_taken_up_again(in_bucket):
    where = in_bucket("one")
    fill(where)
    durable.write_json(where.folder / artifacts.RUN, {"seconds": 2})
    where.place.put("y.txt", b"two")
    where.place.put(artifacts.RUN, b"earlier")
    assert commit(where).is_first
    assert json.loads(where.place.get(artifacts.RUN)) == {"seconds": 2}


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (3, r"lost\.bin: missing, although 3"),
        (2, r"lost\.bin: found 3 bytes, alth.* 2"),
    ],
)
def test_commit_is_refused_while_a_file_that_was_written_is_not_there(
    where, size, message
):
    if size == 2:
        where.place.put("lost.bin", b"abc")
    known = {"lost.bin": artifacts.File(bytes=size, sha256="0" * 64)}
    with pytest.raises(artifacts.ArtifactError, match=message):
        commit(where, known=known)
    assert artifacts.read_manifest(where.place) is None


def test_file_that_is_in_the_place_already_is_neither_needed_here_nor_read(where):
    where.place.put("train.zarr/c/0", b"chunk")
    known = {"train.zarr/c/0": artifacts.File(bytes=5, sha256="0" * 64)}
    assert commit(where, known=known).manifest.files == known


def test_digest_is_that_of_sorted_paths_and_hashes(made):
    manifest = artifacts.read_manifest(made.place)
    pairs = [[n, hashlib.sha256(made.place.get(n)).hexdigest()] for n in manifest.files]
    text = json.dumps(sorted(pairs), separators=(",", ":"))
    assert manifest.digest == hashlib.sha256(text.encode()).hexdigest()


def test_second_commit_of_the_same_bytes_finds_the_first(made):
    again = commit(made)
    assert not again.is_first
    assert again.manifest == artifacts.read_manifest(made.place)


def test_commit_of_other_bytes_names_both_digests_and_changes_nothing(in_bucket):
    first, second = in_bucket("one"), in_bucket("two")
    fill(first)
    mine = commit(first).manifest
    (second.folder / "y.txt").write_text("TWO")
    files = {
        "y.txt": artifacts.File(bytes=3, sha256=hashlib.sha256(b"TWO").hexdigest())
    }
    with pytest.raises(artifacts.ArtifactError, match="another run has committed") as e:
        commit(second)
    assert mine.digest[:12] in str(e.value)
    assert artifacts.digest_of(files)[:12] in str(e.value)
    assert len(str(e.value).splitlines()) == 1
    assert first.place.get("y.txt") == b"two"


class Overtaken:
    """A place in which another run commits between our last look and our commit."""

    def __init__(self, place, text):
        self._place, self._text = place, text

    def __getattr__(self, name):
        return getattr(self._place, name)

    def create(self, name, *parts):
        if name == artifacts.MANIFEST:
            assert self._place.create(name, self._text)
        return self._place.create(name, *parts)


@pytest.mark.parametrize("is_same", [True, False])
def test_first_manifest_wins_a_race(in_bucket, is_same):
    where, other = (
        in_bucket("one"),
        artifacts.Location(
            Home(in_bucket("two").home.path), "harvest", "0123456789abcdef"
        ),
    )
    fill(where)
    fill(other)
    if not is_same:
        (other.folder / "y.txt").write_text("TWO")
    theirs = commit(other).manifest
    place = Overtaken(where.place, theirs.text())
    settings = {"stage": "harvest", "key": where.key, "version": 1, "config": {"a": 1}}
    if is_same:
        done = artifacts.commit(place, where.folder, **settings, parents={}, known={})
        assert (done.manifest, done.is_first) == (theirs, False)
    else:
        with pytest.raises(artifacts.ArtifactError, match="another run"):
            artifacts.commit(place, where.folder, **settings, parents={}, known={})
    assert artifacts.read_manifest(where.place) == theirs


def test_fetch_brings_everything_but_stores(in_bucket):
    here, there = in_bucket("one"), in_bucket("two")
    fill(here)
    (here.folder / "train.zarr").mkdir()
    (here.folder / "train.zarr" / "zarr.json").write_text("{}")
    manifest = commit(here).manifest
    assert artifacts.fetch(there, manifest) == 6
    names = [entry.name for entry in LocalPlace(there.folder).list("")]
    assert names == [artifacts.MANIFEST, "deep/x.txt", "y.txt"]


def test_fetch_brings_files_of_many_blocks(in_bucket):
    here, there = in_bucket("one"), in_bucket("two")
    (here.folder / "large.bin").write_bytes(LARGE)
    artifacts.fetch(there, commit(here).manifest)
    assert (there.folder / "large.bin").read_bytes() == LARGE


def test_fetch_brings_only_what_is_not_there(in_bucket):
    here, there = in_bucket("one"), in_bucket("two")
    fill(here)
    manifest = commit(here).manifest
    assert artifacts.fetch(here, manifest) == 0
    artifacts.fetch(there, manifest)
    (there.folder / "y.txt").unlink()
    assert artifacts.fetch(there, manifest) == 3


def test_fetch_drops_what_is_left_of_another_artifact_of_that_key(in_bucket):
    here, there = in_bucket("one"), in_bucket("two")
    fill(there)
    commit(there)
    there.place.delete(*(entry.name for entry in there.place.list("")))
    (here.folder / "y.txt").write_text("TWO")
    artifacts.fetch(there, commit(here).manifest)
    assert (there.folder / "y.txt").read_text() == "TWO"
    assert not (there.folder / "deep").exists()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda p: p.delete("y.txt"), r"y\.txt: missing; delete memory://"),
        (lambda p: p.put("y.txt", b"tw"), r"y\.txt: 2 bytes instead of 3; delete"),
        (lambda p: p.put("y.txt", b"twO"), r"y\.txt: its bytes have changed; delete"),
    ],
)
def test_fetch_refuses_what_the_manifest_does_not_say(in_bucket, break_it, message):
    here, there = in_bucket("one"), in_bucket("two")
    fill(here)
    manifest = commit(here).manifest
    break_it(here.place)
    with pytest.raises(artifacts.ArtifactError, match=message):
        artifacts.fetch(there, manifest)
    assert not (there.folder / "y.txt").exists()


def test_missing_file_is_refused_without_reading_the_others(made):
    made.place.delete("y.txt")
    with pytest.raises(artifacts.ArtifactError, match=r"y\.txt: missing"):
        artifacts.check_sizes(made.place, artifacts.read_manifest(made.place))


def test_cut_file_is_refused_without_reading_the_others(made):
    made.place.put("y.txt", b"tw")
    with pytest.raises(artifacts.ArtifactError, match=r"found 2 bytes, the manifest"):
        artifacts.check_sizes(made.place, artifacts.read_manifest(made.place))


@pytest.mark.parametrize("text", [b"{", b"\xff", b"[]"])
def test_torn_manifest_is_an_error_that_says_what_to_do(made, text):
    made.place.put(artifacts.MANIFEST, text)
    with pytest.raises(
        artifacts.ArtifactError, match=r"delete .* and run the stage again"
    ):
        artifacts.read_manifest(made.place)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda m: m | {"license": "x"}, "license"),
        (lambda m: m["files"]["y.txt"].update(crc=1) or m, "files.y.txt.crc"),
    ],
)
def test_manifest_of_a_version_to_come_is_told_as_that(made, change, found):
    manifest = json.loads(made.place.get(artifacts.MANIFEST))
    made.place.put(artifacts.MANIFEST, json.dumps(change(manifest)).encode())
    with pytest.raises(artifacts.ArtifactError) as caught:
        artifacts.read_manifest(made.place)
    assert str(caught.value) == (
        f"{made.place.url}/MANIFEST.json: was written by a newer version (found "
        f"{found!r}); use that version"
    )


@pytest.mark.parametrize("name", ["../y.txt", "/etc/x", "deep/../../y.txt", ""])
def test_manifest_that_names_a_file_elsewhere_is_refused(made, name):
    manifest = artifacts.read_manifest(made.place)
    changed = manifest.model_copy(
        update={"files": {name: artifacts.File(bytes=1, sha256="0")}}
    )
    made.place.put(artifacts.MANIFEST, changed.text())
    with pytest.raises(artifacts.ArtifactError, match="is not a manifest"):
        artifacts.read_manifest(made.place)


def state(where, present=None):
    manifest = artifacts.read_manifest(where.place)
    return artifacts.state_of(where, manifest, present or {})


def test_state_is_missing_before_anything(where):
    where.folder.rmdir()
    assert state(where) == "missing"


def test_state_is_partial_for_a_folder_without_a_manifest(where):
    assert state(where) == "partial"


def test_state_is_partial_where_another_machine_began(in_bucket):
    here, there = in_bucket("one"), in_bucket("two")
    here.folder.rmdir()
    there.place.put(artifacts.BEGUN, b"{}")
    assert state(here) == "partial"


def test_state_is_failed_where_a_failure_was_recorded(where):
    (where.folder / artifacts.FAILED).write_text("{}")
    assert state(where) == "failed"


def test_state_is_running_while_the_lock_is_held(where):
    with locks.holding([where.lock], lambda path: None):
        assert state(where) == "running"


def test_state_is_stale_once_a_parent_has_another_digest(where):
    old = artifacts.Parent(key="k", digest="old")
    commit(where, {"corpus": old})
    assert state(where, {"corpus": old}) == "done"
    new = artifacts.Parent(key="k", digest="new")
    assert state(where, {"corpus": new}) == "stale"


def test_state_stays_done_while_a_parent_is_gone(where):
    commit(where, {"corpus": artifacts.Parent(key="k", digest="d")})
    assert state(where, {"corpus": None}) == "done"


def test_what_a_bucket_lost_is_not_done_though_it_is_here(in_bucket):
    where = in_bucket("one")
    fill(where)
    commit(where)
    where.place.delete(*(entry.name for entry in where.place.list("")))
    assert state(where) == "partial"
