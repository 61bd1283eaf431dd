"""Places: whole objects or none, on every kind alike, and errors of one line."""

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from obstore.exceptions import (
    GenericError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from storage import durable
from storage.places import BucketPlace, Entry, LocalPlace, PlaceError, open_place

HOLD = """
import sys
from pathlib import Path
from storage import durable
path = Path(sys.argv[1])
if sys.argv[2] == "replacing":
    held = durable.replacing(path)
else:
    held = durable.temporary(path, [b"half"])
with held as aside:
    aside.write_bytes(b"half")
    print("writing", flush=True)
    sys.stdin.readline()
"""


def test_parts_that_were_put_come_back_joined(place):
    place.put("a/b", b"one", memoryview(b"two"), b"")
    assert place.get("a/b") == b"onetwo"


def test_large_object_comes_back_from_its_parts(place):
    parts = [bytes([i]) * (6 << 20) for i in range(3)]
    place.put("a", *parts, b"end")
    assert place.get("a") == b"".join(parts) + b"end"


def test_put_replaces_what_was_there(place):
    place.put("a", b"older and longer")
    place.put("a", b"new")
    assert place.get("a") == b"new"


def test_several_objects_are_put_together(place):
    place.put_all({"a/b": [b"1"], "a/c": [b"2", b"3"]})
    assert [place.get(name) for name in ("a/b", "a/c")] == [b"1", b"23"]


def test_create_leaves_what_is_there(place):
    assert place.create("a/b", b"fir", b"st")
    assert not place.create("a/b", b"second")
    assert place.get("a/b") == b"first"


def test_only_one_of_many_creates_wins(place):
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: place.create("a", bytes([i])), range(8)))
    assert won.count(True) == 1
    assert place.get("a") == bytes([won.index(True)])


@pytest.mark.parametrize("name", ["lost", "a/lost", "a/b/lost", "a"])
def test_missing_object_is_named_in_full(place, name):
    place.put("a/b", b"")
    for get in (place.get, lambda name: place.get_range(name, 0, 1)):
        with pytest.raises(FileNotFoundError) as caught:
            get(name)
        assert caught.value.filename == f"{place.url}/{name}"
    assert place.size(name) is None


@pytest.mark.parametrize(
    ("start", "length", "found"),
    [(0, 2, b"01"), (3, 4, b"3456"), (7, 9, b"789"), (10, 1, b""), (99, 1, b"")],
)
def test_range_ends_where_the_object_does(place, start, length, found):
    place.put("a", b"0123456789")
    assert place.get_range("a", start, length) == found


def test_large_object_is_created_once(place):
    parts = [bytes(8 << 20)] * 9
    assert place.create("a", *parts)
    assert not place.create("a", *parts, b"more")
    assert place.size("a") == 72 << 20


def test_of_two_that_create_a_large_object_at_once_one_wins(place):
    contents = [bytes([i]) * (80 << 20) for i in range(2)]
    with ThreadPoolExecutor(2) as pool:
        created = list(pool.map(lambda content: place.create("a", content), contents))
    assert sorted(created) == [False, True]
    assert place.get("a") == contents[created.index(True)]


def test_what_no_bucket_takes_at_once_is_refused(tmp_path):
    block = memoryview(bytes(1 << 20))
    bucket = open_place("memory://large")
    with pytest.raises(PlaceError, match=r"at most 4,294,967,296 at once; lower store"):
        bucket.create("a", *[block] * 4097)


def test_create_does_without_hard_links(tmp_path, monkeypatch):
    def link(*paths):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    place = LocalPlace(tmp_path)
    assert place.create("a", b"first")
    assert not place.create("a", b"second")
    assert (place.get("a"), os.listdir(tmp_path)) == (b"first", ["a"])


def test_size_is_that_of_the_object(place):
    place.put("a/b", b"123")
    assert place.size("a/b") == 3


def test_list_is_sorted_and_deep(place):
    for name in ("b/2", "ab", "b/1/x", "a"):
        place.put(name, name.encode())
    names = [Entry(name, len(name)) for name in ("a", "ab", "b/1/x", "b/2")]
    assert place.list("") == names
    assert place.list("b") == place.list("b/") == names[2:]


def test_list_of_a_folder_leaves_out_what_only_begins_like_it(place):
    place.put("a/x", b"")
    place.put("ab/x", b"")
    assert [entry.name for entry in place.list("a")] == ["a/x"]
    assert place.list("lost") == []


def test_deleted_objects_are_gone_and_missing_ones_no_error(place):
    for name in ("a", "b/c", "b/d"):
        place.put(name, b"")
    place.delete("a", "lost", "b/c")
    place.delete("also/lost")
    place.delete()
    assert [entry.name for entry in place.list("")] == ["b/d"]


def test_child_is_the_place_below(place):
    place.child("a").child("b").put("c", b"x")
    assert place.get("a/b/c") == b"x"
    assert place.child("a").url == f"{place.url}/a"
    assert [entry.name for entry in place.child("a").list("")] == ["b/c"]


def test_url_leads_back_to_the_place(place):
    place.put("a", b"x")
    assert open_place(place.url).get("a") == b"x"
    assert place.url in repr(place)


def test_only_a_local_object_has_a_path(place):
    place.put("a", b"x")
    path = place.path("a")
    assert path is None if "://" in place.url else path.read_bytes() == b"x"


def test_sweep_leaves_whole_objects(place):
    place.put("a/b", b"x")
    place.sweep("a")
    assert place.get("a/b") == b"x"


def test_zarr_sees_the_objects_and_cannot_write(place):
    place.put("a/zarr.json", b'{"zarr_format": 3, "node_type": "group"}')
    import zarr

    group = zarr.open_group(place.zarr_store(), path="a", mode="r")
    with pytest.raises(ValueError, match="read-only"):
        group.create_group("b")


def test_emptied_folders_do_not_stay(tmp_path):
    place = LocalPlace(tmp_path / "place")
    place.put("a/b/c", b"")
    place.put("d", b"")
    place.delete("a/b/c")
    assert os.listdir(place.root) == ["d"]


def test_failed_put_leaves_the_old_file_and_nothing_else(tmp_path):
    place = LocalPlace(tmp_path)
    place.put("a", b"old")
    with pytest.raises(TypeError):
        place.put("a", b"half", None)
    assert place.get("a") == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_file_that_is_being_written_is_neither_listed_nor_swept(tmp_path):
    place = LocalPlace(tmp_path)
    with durable.temporary(tmp_path / "a" / "b", [b"half"]) as aside:
        place.sweep("")
        assert place.list("") == []
        assert aside.exists()


@pytest.mark.parametrize("way", ["replacing", "temporary"])
def test_file_of_a_writer_that_was_killed_is_swept(tmp_path, way):
    (tmp_path / "a").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "a" / "b"), way],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    ) as writer:
        assert writer.stdout.readline() == "writing\n"
        place = LocalPlace(tmp_path)
        place.sweep("a")
        assert len(os.listdir(tmp_path / "a")) == 1
        writer.kill()
        writer.wait()
    place.sweep("a")
    assert os.listdir(tmp_path / "a") == []


@pytest.fixture
def small_disk(tmp_path):
    """Return the folder of a file system of 4 MiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)]
    if (
        os.getuid() != 0
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("cannot mount a tmpfs here")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.slow
def test_full_disk_is_told_and_costs_nothing_that_was_there(small_disk):
    place = LocalPlace(small_disk)
    place.put("a", b"kept")
    with pytest.raises(OSError, match="No space left on device") as caught:
        place.put("b", bytes(8 << 20))
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(small_disk / "b")
    assert place.list("") == [Entry("a", 4)]
    assert os.listdir(small_disk) == ["a"]


def test_other_schemes_are_refused():
    with pytest.raises(PlaceError) as caught:
        open_place("ftp://host/x")
    assert str(caught.value) == (
        "ftp://host/x: found a URL of scheme 'ftp'; name a folder, or a bucket by "
        "s3://, gs://, az://, memory://"
    )


def test_url_without_a_bucket_is_refused():
    with pytest.raises(PlaceError, match="s3://: names no bucket; write s3://bucket/"):
        open_place("s3://")


@pytest.mark.parametrize(
    "url",
    ["s3://KEY:SECRET@b", "s3://KEY:SEC/RET@b", "ftp://me:SECRET@b", "az://b?SECRET"],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(url):
    with pytest.raises(PlaceError) as caught:
        open_place(url)
    assert str(caught.value) == (
        f"{url.partition('://')[0]}://...: found credentials in the URL; set them in "
        "environment variables, and name only the bucket and a prefix"
    )


@pytest.mark.parametrize(
    ("url", "error"), [("s3://a b/x", "ValueError"), ("az://b", "GenericError")]
)
def test_bucket_that_cannot_be_opened_is_one_line(url, error):
    with pytest.raises(PlaceError) as caught:
        open_place(url)
    assert str(caught.value) == (
        f"{url.removesuffix('/x')}: cannot be used as it is set in the environment "
        f"({error}); check its name, and the region, endpoint and credentials"
    )
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("root", [".", "here", "here/"])
def test_names_are_relative_to_the_folder_however_it_is_written(
    tmp_path, monkeypatch, root
):
    monkeypatch.chdir(tmp_path)
    place = open_place(root)
    place.put("a/b", b"x")
    for prefix in ("", "a", "a/", "a/b"):
        found = [] if prefix == "a/b" else [Entry("a/b", 1)]
        assert place.list(prefix) == found


def test_paths_are_folders():
    assert open_place("x/y").path("z") == Path("x/y/z")
    assert open_place(Path("x")).url == "x"


def ask_size(place):  # which S3 answers without a reason
    return place.size("a")


EVERY_METHOD = [
    lambda place: place.put("a", b""),
    lambda place: place.put_all({"a": [b""]}),
    lambda place: place.create("a", b""),
    lambda place: place.get("a"),
    lambda place: place.get_range("a", 0, 1),
    ask_size,
    lambda place: place.list(""),
    lambda place: place.delete("a"),
]


class RefusingStore:
    """A bucket that answers everything with one error."""

    def __init__(self, error):
        self._error = error

    def _refuse(self, *args, **kwargs):
        raise self._error

    put = get = get_range = head = list = delete = _refuse


@pytest.mark.parametrize("call", EVERY_METHOD)
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            PermissionDeniedError("403\nDebug"),
            r"permission denied to \w+; check the cred",
        ),
        (
            UnauthenticatedError("401\nDebug"),
            r"permission denied to \w+; check the cred",
        ),
        (GenericError("no route\nDebug"), r"cannot be reached \(GenericError\); check"),
        (
            GenericError("<Code>NoSuchBucket</Code>\n"),
            "there is no such bucket; make it",
        ),
    ],
)
def test_refusal_of_a_bucket_is_one_line_from_every_method(call, error, message):
    place = BucketPlace(RefusingStore(error), "p", url="s3://bucket/p")
    with pytest.raises(PlaceError, match=f"^s3://bucket/p: {message}") as caught:
        call(place)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("call", [c for c in EVERY_METHOD if c is not ask_size])
def test_missing_bucket_is_one_line(s3, call):
    place = open_place("s3://elsewhere/x")
    with pytest.raises(PlaceError) as caught:
        call(place)
    assert str(caught.value) == (
        "s3://elsewhere/x: there is no such bucket; make it, or name another"
    )


@pytest.mark.slow
@pytest.mark.parametrize("call", EVERY_METHOD)
def test_refused_credentials_are_one_line_without_a_secret(s3, s3_strict, call):
    with pytest.raises(PlaceError) as caught:
        call(open_place(s3))
    assert str(caught.value).startswith(f"{s3}: permission denied to ")
    assert "\n" not in str(caught.value)
    assert "never-shown" not in str(caught.value)
