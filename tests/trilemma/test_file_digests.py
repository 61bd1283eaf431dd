"""A file is read again when it may have changed, and only then."""

import hashlib
import json
import logging
import os
import time

import pytest
from pydantic import TypeAdapter

from tests.trilemma.test_saelens_cache import columns, save
from trilemma import corpus, file_digests, lm
from trilemma.config.sources import Corpus

LONG_AGO = 10**18
PLANTED = "0" * 64


@pytest.fixture(autouse=True)
def begin_process(tmp_path, monkeypatch):
    """Give each test an empty cache; what it returns forgets all that is in memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))

    def begin():
        monkeypatch.setattr(file_digests, "_memory", {})

    begin()
    return begin


def write(path, content, mtime_ns=LONG_AGO):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


def plant():
    """Replace every digest that is kept by one that no file has."""
    kept = json.loads(file_digests.place().read_text())
    for known in kept.values():
        known[-1] = PLANTED
    file_digests.place().write_text(json.dumps(kept))
    return set(kept)


def of(content):
    return hashlib.sha256(content).hexdigest()


def test_digests_are_those_of_the_contents_in_order(tmp_path):
    paths = [write(tmp_path / name, name.encode()) for name in ("b", "a", "c")]
    for _ in range(2):
        assert file_digests.sha256(paths) == [of(b"b"), of(b"a"), of(b"c")]


def test_the_next_process_does_not_read_a_file_again(
    tmp_path, monkeypatch, begin_process
):
    path = write(tmp_path / "a", b"some")
    file_digests.sha256([path])
    assert plant() == {str(path)}
    begin_process()
    monkeypatch.chdir(tmp_path)
    assert file_digests.sha256([path.relative_to(tmp_path)]) == [PLANTED]


def test_nor_does_the_same_process_whatever_is_kept(tmp_path):
    path = write(tmp_path / "a", b"some")
    file_digests.sha256([path])
    file_digests.place().write_text("broken")
    assert file_digests.sha256([path]) == [of(b"some")]
    assert file_digests.place().read_text() == "broken"


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    ("content", "mtime_ns"), [(b"same", LONG_AGO + 1), (b"longer", LONG_AGO)]
)
def test_a_file_of_another_size_or_time_is_read_again(
    tmp_path, begin_process, content, mtime_ns, in_memory
):
    path = write(tmp_path / "a", b"some")
    file_digests.sha256([path])
    write(path, content, mtime_ns)
    if not in_memory:
        begin_process()
    assert file_digests.sha256([path]) == [of(content)]
    plant()
    begin_process()
    assert file_digests.sha256([path]) == [PLANTED]


def test_a_file_whose_time_was_set_back_is_read_again(tmp_path):
    path = write(tmp_path / "a", b"some")
    file_digests.sha256([path])
    before = path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        write(path, b"same")
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert file_digests.sha256([path]) == [of(b"same")]


@pytest.mark.parametrize("ahead_ns", [0, 3600 * 10**9])
def test_a_file_written_just_now_is_always_read(tmp_path, ahead_ns):
    path = tmp_path / "a"
    for content in (b"some", b"same"):
        write(path, content, time.time_ns() + ahead_ns)
        assert file_digests.sha256([path]) == [of(content)]
    assert not file_digests.place().exists()


def test_nor_is_what_is_kept_of_such_a_file_believed(tmp_path, begin_process):
    path = write(tmp_path / "a", b"some")
    file_digests.sha256([path])
    now = time.time_ns()
    os.utime(path, ns=(now, now))
    found = path.stat()
    signature = [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
    kept = json.dumps({str(path): [signature, PLANTED]})
    file_digests.place().write_text(kept)
    begin_process()
    assert file_digests.sha256([path]) == [of(b"some")]


@pytest.mark.parametrize(
    "broken", [b"", b'{"a', b"[]", b"\xff", b'{"a": 1}', b'{"a": [[1, 2, 3], "00"]}']
)
def test_a_broken_file_is_told_and_replaced(tmp_path, caplog, begin_process, broken):
    file_digests.place().parent.mkdir(parents=True)
    file_digests.place().write_bytes(broken)
    path = write(tmp_path / "a", b"some")
    with caplog.at_level(logging.WARNING):
        assert file_digests.sha256([path]) == [of(b"some")]
    (line,) = caplog.messages
    assert line.startswith(f"{file_digests.place()} cannot be read (")
    assert line.endswith("; all files are read again")
    assert plant() == {str(path)}
    begin_process()
    assert file_digests.sha256([path]) == [PLANTED]


def test_a_place_that_cannot_be_written_is_told(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    path = write(tmp_path / "a", b"some")
    with caplog.at_level(logging.WARNING):
        assert file_digests.sha256([path]) == [of(b"some")]
    assert caplog.messages[-1] == (
        f"{tmp_path}/file/trilemma/digests.json cannot be written (Not a directory), "
        "the next run reads 1 files again; set XDG_CACHE_HOME to a folder that can"
    )


def test_nothing_is_left_of_a_write_that_failed(tmp_path):
    file_digests.place().mkdir(parents=True)
    file_digests.sha256([write(tmp_path / "a", b"some")])
    assert list(file_digests.place().parent.iterdir()) == [file_digests.place()]


def test_the_cache_is_the_users_or_nowhere(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = tmp_path / ".cache" / "trilemma" / "digests.json"
    assert file_digests.place() == expected
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert file_digests.place() is None
    assert file_digests.sha256([write(tmp_path / "a", b"some")]) == [of(b"some")]


def test_what_was_read_before_an_error_is_kept(tmp_path):
    path = write(tmp_path / "a", b"some")
    with pytest.raises(IsADirectoryError):
        file_digests.sha256([path, tmp_path])
    assert plant() == {str(path)}


def test_what_another_process_kept_meanwhile_stays(tmp_path, begin_process):
    paths = [write(tmp_path / name, b"some") for name in "abc"]
    file_digests.sha256(paths[:1])
    begin_process()
    file_digests.sha256(paths[1:2])
    file_digests.sha256(paths[2:])
    assert plant() == set(map(str, paths))


def test_the_oldest_are_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(file_digests, "_MOST_FILES", 2)
    paths = [write(tmp_path / name, b"some") for name in "abc"]
    for path in paths:
        file_digests.sha256([path])
    assert plant() == set(map(str, paths[1:]))


def test_a_name_that_is_no_unicode_is_kept_too(tmp_path, begin_process):
    path = write(tmp_path / os.fsdecode(b"\xff"), b"some")
    file_digests.sha256([path])
    plant()
    begin_process()
    assert file_digests.sha256([path]) == [PLANTED]


def config(**values):
    return TypeAdapter(Corpus).validate_python({"eval_fraction": 0.5} | values)


def make_files(tmp_path):
    write(tmp_path / "texts" / "a.txt", b"some")
    source = config(kind="text", paths=[str(tmp_path / "texts" / "*")], ctx=8)
    return lambda: corpus.source_digest(source)


def make_cache(tmp_path):
    save(tmp_path / "cached", columns())
    for path in (tmp_path / "cached").iterdir():
        os.utime(path, ns=(LONG_AGO, LONG_AGO))
    source = config(kind="saelens_cache", path=str(tmp_path / "cached"))
    return lambda: corpus.source_digest(source)


def make_lm(tmp_path):
    write(tmp_path / "lm" / "config.json", b"{}")
    return lambda: lm.folder_digest(tmp_path / "lm")


def make_tokenizer(tmp_path):
    write(tmp_path / "lm" / "config.json", b"{}")
    write(tmp_path / "lm" / "tokenizer.json", b"{}")
    return lambda: lm.tokenizer_digest(tmp_path / "lm")


@pytest.mark.parametrize("make", [make_files, make_cache, make_lm, make_tokenizer])
def test_planning_again_reads_no_source_again(tmp_path, begin_process, make):
    digest = make(tmp_path)
    whole = digest()
    begin_process()
    assert digest() == whole
    plant()
    begin_process()
    assert digest() != whole
