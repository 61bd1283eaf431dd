"""Verification: no changed byte, missing file or further file goes unseen."""

import errno
import random
import uuid

import pytest

from storage import artifacts, transfer, verification
from storage.artifacts import Parent
from storage.home import Home
from storage.places import open_place

PARENTS = {
    "lm": Parent(key="00112233aabbccdd", digest="12" * 32),
    "corpus": Parent(key="0123456789abcdef", digest="ab" * 32),
}
CONFIG = {"dtype": "float32", "hooks": ["a.b", "c"], "ratio": 0.5, "limit": None}
FILES = {
    "card.json": b'{"a": 1}\n',
    "empty.bin": b"",
    "model/weights.bin": random.Random(1).randbytes(3000),
    "train.zarr/zarr.json": b"{}",
    "train.zarr/a.b/activations/c/0/0": random.Random(2).randbytes(5000),
}


@pytest.fixture(params=["folder", "bucket"])
def where(request, tmp_path):
    """Return a committed artifact with nested folders and parents."""
    keys = {label: parent.key for label, parent in PARENTS.items()}
    key = artifacts.key_of("harvest", 3, CONFIG, keys)
    bucket = open_place(f"memory://{uuid.uuid4()}")
    home = Home(tmp_path, bucket if request.param == "bucket" else None)
    found = artifacts.Location(home, "harvest", key)
    for name, data in FILES.items():
        path = found.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    artifacts.commit(
        found.place,
        found.folder,
        stage="harvest",
        key=key,
        version=3,
        config=CONFIG,
        parents=PARENTS,
        known={},
    )
    return found


def faults(where, present=PARENTS, advance=lambda count: None):
    try:
        opened = verification.open_manifest(where, present)
    except artifacts.ArtifactError as error:
        return [str(error)]
    return verification.check(opened, threads=2, advance=advance)


def change(where, name, old, new):
    data = where.place.get(name)
    assert old in data
    where.place.put(name, data.replace(old, new, 1))


def test_untouched_artifact_has_no_faults_and_every_byte_is_counted(where):
    counts = []
    assert not faults(where, advance=counts.append)
    opened = verification.open_manifest(where, PARENTS)
    # The machine that made a bucket's artifact has all its files too.
    copies = 1 if where.home.bucket is None else 2
    assert sum(counts) == copies * sum(len(data) for data in FILES.values())
    assert sum(counts) == opened.bytes


def test_every_one_of_200_changed_bytes_is_found(where):
    names = [artifacts.MANIFEST, *(name for name, data in FILES.items() if data)]
    draw = random.Random(0)
    unseen = []
    for _ in range(200):
        name = draw.choice(names)
        before = where.place.get(name)
        after = bytearray(before)
        at = draw.randrange(len(before))
        after[at] ^= draw.randrange(1, 256)
        where.place.put(name, after)
        if not faults(where):
            unseen.append((name, at, after[at]))
        where.place.put(name, before)
    assert unseen == []
    assert not faults(where)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("card.json", b"1", b"2", "/card.json: its bytes have changed"),
        ("card.json", b"1", b"", "/card.json: 8 bytes instead of 9"),
        (artifacts.MANIFEST, b"  ", b"\t", "/MANIFEST.json: its bytes have changed"),
        (artifacts.MANIFEST, b"\n", b"\r", "/MANIFEST.json: its bytes have changed"),
        (artifacts.MANIFEST, b"0.5", b"0.7", "its key does not fit"),
        (artifacts.MANIFEST, b"00112233", b"00112234", "its key does not fit"),
        (artifacts.MANIFEST, b"{", b"", "is not a manifest; delete"),
        (artifacts.MANIFEST, b": 3000", b": 3001", "3000 bytes instead of 3001"),
        (artifacts.MANIFEST, b"empty.bin", b"vmpty.bin", "digest does not fit"),
        (artifacts.MANIFEST, b"abab", b"abac", "is stale or altered: corpus has dig"),
    ],
)
def test_fault_is_one_line_that_says_what_is_wrong(where, name, old, new, message):
    change(where, name, old, new)
    lines = faults(where)
    assert any(message in line for line in lines)
    assert all(len(line.splitlines()) == 1 for line in lines)


def test_deleted_and_further_files_are_named(where):
    where.place.delete("model/weights.bin")
    where.place.put("train.zarr/extra", b"")
    first, second = faults(where)
    assert first == f"{where.place.url}/model/weights.bin: missing"
    assert second == f"{where.place.url}/train.zarr/extra: is not in the manifest"


class Worn:
    """A place in which one file goes away, or cannot be read, once it is begun."""

    def __init__(self, place, error):
        self._place, self._error = place, error

    def get_range(self, name, start, length):
        if name == "model/weights.bin":
            raise self._error
        return self._place.get_range(name, start, length)

    def __getattr__(self, name):
        return getattr(self._place, name)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), "No such file"),
    ],
)
def test_file_that_cannot_be_read_is_one_fault_beside_the_others(where, error, why):
    change(where, "card.json", b"1", b"2")
    files = artifacts.read_manifest(where.place).files
    worn = Worn(where.place, error)
    lines = transfer.check(worn, files, threads=2, advance=lambda count: None)
    assert lines == [
        f"{where.place.url}/card.json: its bytes have changed",
        f"{where.place.url}/model/weights.bin: cannot be read ({why})",
    ]


@pytest.mark.parametrize("where", ["bucket"], indirect=True)
def test_copy_of_a_buckets_file_that_has_changed_is_told(where):
    path = where.folder / "card.json"
    path.write_bytes(path.read_bytes().replace(b"1", b"2"))
    assert list(faults(where)) == [f"{path}: its bytes have changed"]


@pytest.mark.parametrize("where", ["bucket"], indirect=True)
def test_what_is_here_of_other_work_is_no_copy(where):
    (where.folder / artifacts.MANIFEST).unlink()
    (where.folder / "card.json").write_bytes(b'{"a": 2}\n')
    assert not faults(where)


def test_commit_records_that_a_kill_has_left_are_no_further_files(where):
    where.place.put("train.commits/00000000.json", b"{}")
    assert not faults(where)


def test_run_record_is_no_further_file(where):
    where.place.put(artifacts.RUN, b"{}")
    assert not faults(where)


def test_artifact_in_the_place_of_another_is_found(where, tmp_path):
    elsewhere = where._replace(key="f" * 16)
    for entry in where.place.list(""):
        elsewhere.place.put(entry.name, where.place.get(entry.name))
    assert any("its key does not fit its place" in line for line in faults(elsewhere))


def test_changed_parent_is_told(where):
    now = PARENTS | {"lm": Parent(key=PARENTS["lm"].key, digest="99" * 32)}
    (line,) = faults(where, now)
    assert "is stale or altered: lm has digest 999999999999, and had 1212" in line


def test_parent_that_is_gone_is_no_fault(where):
    assert not faults(where, dict.fromkeys(PARENTS))


def test_unfinished_work_is_not_verified(where):
    where.place.delete(artifacts.MANIFEST)
    assert verification.open_manifest(where, PARENTS) is None
