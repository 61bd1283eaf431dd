"""Writing a store: any kill, and any number of writers, end in the same bytes."""

import itertools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.artifacts import ArtifactError
from storage.places import open_place
from storage.store import Store
from storage.store_writer import forget_commits
from tests.storage import stores
from tests.storage.stores import CTX, HOOK, NUM_SEQS, WIDTHS

RAW = stores.layout()
LAYOUTS = [RAW, stores.layout("int8", "shuffle-zstd", 3)]
RECORD = "train.commits/00000001.json"

WRITE = """
import sys
from storage.places import open_place
from tests.storage import stores
writer = stores.open_writer(open_place(sys.argv[1]), stores.layout(), 40)
print("open", flush=True)
sys.stdin.readline()
for part in range(writer.num_parts):
    stores.write_part(writer, part, 40)
"""


def identify(layout):
    return f"{layout.dtype}-{layout.codec}-{layout.shard_chunks}"


def write_all(place, layout, num_seqs=NUM_SEQS):
    """Write what is missing of a split, and return all its files."""
    writer = stores.open_writer(place, layout, num_seqs)
    for part in writer.missing():
        stores.write_part(writer, part, num_seqs)
    return stores.finish(writer)


def split_of(place):
    return {n: b for n, b in stores.contents(place).items() if ".zarr/" in n}


@pytest.mark.parametrize("layout", LAYOUTS, ids=identify)
def test_finish_returns_every_file_with_its_hash(place, layout):
    assert write_all(place, layout) == stores.as_files(split_of(place))


@pytest.mark.parametrize("layout", LAYOUTS, ids=identify)
def test_kill_at_any_put_ends_in_the_same_bytes(place, layout):
    layout = layout._replace(widths={HOOK: 6})
    write_all(place.child("whole"), layout, 4)
    whole = split_of(place.child("whole"))
    for puts in itertools.count():
        found = place.child(str(puts))
        try:
            write_all(stores.Failing(found, puts), layout, 4)
        except stores.BrokenError:
            write_all(found, layout, 4)
            assert split_of(found) == whole
        else:
            break
    assert puts > len(whole)


@settings(deadline=None, max_examples=40)
@given(
    num_seqs=st.integers(1, 30),
    chunk_seqs=st.integers(1, 12),
    shard_chunks=st.one_of(st.none(), st.integers(1, 4)),
)
def test_parts_and_chunks_cover_the_split_once(num_seqs, chunk_seqs, shard_chunks):
    layout = stores.layout(shard_chunks=shard_chunks, chunk_seqs=chunk_seqs)
    writer = stores.open_writer(open_place(f"memory://{next(NAMES)}"), layout, num_seqs)
    parts = range(writer.num_parts)
    chunks = [chunk for part in parts for chunk in writer.chunks_of(part)]
    assert chunks == list(range(writer.num_chunks))
    for spans, end in [
        ([writer.sequences(chunk) for chunk in chunks], num_seqs),
        ([writer.rows(chunk) for chunk in chunks], num_seqs * CTX),
        ([writer.part_sequences(part) for part in parts], num_seqs),
    ]:
        covered = [i for span in spans for i in range(span.start, span.stop)]
        assert covered == list(range(end))


NAMES = itertools.count()


@pytest.mark.parametrize("layout", LAYOUTS, ids=identify)
def test_two_writers_at_once_lose_nothing(place, layout):
    write_all(place.child("alone"), layout, 40)

    def write(order):
        writer = stores.open_writer(place.child("shared"), layout, 40)
        for part in list(range(writer.num_parts))[::order]:
            stores.write_part(writer, part, 40)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, [1, -1, 1, -1]))
    writer = stores.open_writer(place.child("shared"), layout, 40)
    assert writer.missing() == []
    stores.finish(writer)
    assert split_of(place.child("shared")) == split_of(place.child("alone"))


@pytest.mark.slow
def test_two_processes_at_once_lose_nothing(tmp_path):
    place = open_place(tmp_path / "shared")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE, place.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.getcwd()},
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "open\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    writer = stores.open_writer(place, RAW, 40)
    assert writer.missing() == []
    stores.finish(writer)
    write_all(open_place(tmp_path / "alone"), RAW, 40)
    assert split_of(place) == split_of(open_place(tmp_path / "alone"))


def half_done(place):
    """Open a store whose first two parts are committed."""
    writer = stores.open_writer(place, RAW)
    for part in (0, 1):
        stores.write_part(writer, part)
    return writer


def cut(place, name):
    place.put(name, place.get(name)[:-1])


def alter(place, name):
    place.put(name, b"x" + place.get(name)[1:])


def lose(place, name):
    place.delete(name)


def is_bucket(place):
    return place.path("x") is None


@pytest.mark.parametrize("name", [f"{HOOK}/activations/c/1/0", "tokens/c/1/0"])
@pytest.mark.parametrize("damage", [lose, cut])
def test_committed_part_that_is_not_whole_is_missing(place, name, damage):
    writer = half_done(place)
    damage(place, f"train.zarr/{name}")
    assert writer.missing() == [1, 2, 3]
    if damage is cut and is_bucket(place):
        with pytest.raises(ArtifactError, match="has written other bytes here"):
            write_all(place, RAW)
    else:
        write_all(place, RAW)
        assert Store.open(stores.make(place, RAW)).read(HOOK, 12, 24).any()


def test_folder_that_one_run_holds_has_its_files_replaced(tmp_path):
    place = open_place(tmp_path)
    writer = half_done(place)
    place.put("train.zarr/tokens/c/2/0", b"half")
    stores.write_part(writer, 2)
    assert writer.missing() == [3]


@pytest.mark.parametrize("damage", [lose, cut, alter])
def test_part_without_a_whole_record_is_missing(place, damage):
    writer = half_done(place)
    damage(place, RECORD)
    assert writer.missing() == [1, 2, 3]


@pytest.mark.parametrize(
    "change", [{"files": {}}, {"statistics": []}, {"part": 0}, {"more": 1}]
)
def test_record_of_something_else_does_not_count(place, change):
    writer = half_done(place)
    record = json.loads(place.get(RECORD))
    place.put(RECORD, json.dumps(record | change).encode())
    assert writer.missing() == [1, 2, 3]


def test_record_tells_chunks_rows_and_files(place):
    half_done(place)
    record = json.loads(place.get(RECORD))
    assert (record["part"], record["chunks"], record["rows"]) == (1, [1, 2], 12)
    files = {n: b for n, b in split_of(place).items() if "/c/1" in n}
    assert {n: f["bytes"] for n, f in record["files"].items()} == {
        name: len(data) for name, data in files.items()
    }


@pytest.mark.parametrize(
    ("layout", "num_seqs"),
    [
        (stores.layout("float16"), NUM_SEQS),
        (stores.layout(codec="shuffle-zstd"), NUM_SEQS),
        (stores.layout(shard_chunks=1), NUM_SEQS),
        (stores.layout(widths={HOOK: 6}), NUM_SEQS),
        (RAW._replace(provenance={}), NUM_SEQS),
        (RAW, NUM_SEQS + 1),
    ],
)
def test_other_layout_starts_afresh_in_a_folder(tmp_path, layout, num_seqs):
    place = open_place(tmp_path)
    half_done(place)
    writer = stores.open_writer(place, layout, num_seqs)
    assert writer.missing() == list(range(writer.num_parts))
    assert write_all(place, layout, num_seqs) == stores.as_files(split_of(place))


def test_stray_file_among_the_records_does_not_count(place):
    writer = half_done(place)
    for name in (".nfs0001", "readme.json", "00000099.json", "deep/00000002.json"):
        place.put(f"train.commits/{name}", b"\xff")
    assert writer.num_committed_rows() == 24
    assert writer.missing() == [2, 3]


def test_kill_while_starting_afresh_does_no_harm(tmp_path):
    place = open_place(tmp_path)
    half_done(place)
    other = stores.layout("float16")
    for name in [n for n in split_of(place) if n != "train.zarr/zarr.json"][::2]:
        place.delete(name)
    assert write_all(place, other) == stores.as_files(split_of(place))


def test_splits_do_not_touch_each_other(place):
    write_all(place, RAW)
    before = stores.contents(place)
    stores.StoreWriter(place, "eval", stores.layout("int8"), num_seqs=3)
    assert before.items() <= stores.contents(place).items()


def test_statistics_come_back_in_the_order_of_chunks(place):
    writer = stores.open_writer(place, stores.layout(shard_chunks=3))
    for part in (1, 0):
        stores.write_part(writer, part)
    chunks = range(writer.num_chunks)
    assert list(writer.read_statistics()) == [{"chunk": i, "mean": 0.1} for i in chunks]


@pytest.mark.parametrize("layout", LAYOUTS, ids=identify)
def test_committed_chunks_can_be_read_while_others_are_missing(place, layout):
    writer = stores.open_writer(place, layout)
    stores.write_part(writer, 0)
    for chunk in writer.chunks_of(0):
        own = stores.chunk_data(writer, chunk)
        for hook, found in own.hooks.items():
            assert np.array_equal(writer.read_values(hook, chunk), found.values)
            assert np.array_equal(writer.read_norm(hook, chunk), found.norm)
            if found.scale is not None:
                assert np.array_equal(writer.read_scale(hook, chunk), found.scale)
        assert np.array_equal(writer.read_tokens(chunk), own.tokens)


def test_finish_may_be_repeated(place):
    first = write_all(place, RAW)
    writer = stores.open_writer(place, RAW)
    assert writer.missing() == []
    assert stores.finish(writer) == first


def test_split_with_missing_parts_cannot_be_finished(place):
    writer = half_done(place)
    with pytest.raises(ArtifactError, match=r"zarr: 2 of 4 parts are not there; run"):
        stores.finish(writer)


def test_forget_commits_leaves_everything_else_alone(place):
    write_all(place, RAW)
    stores.StoreWriter(place, "eval", RAW, num_seqs=1)
    place.put("other.commits", b"")
    before = split_of(place) | {"other.commits": b""}
    for _ in range(2):
        forget_commits(place)
        assert stores.contents(place) == before


def test_leftover_of_a_kill_goes_when_the_store_is_opened_again(tmp_path):
    place = open_place(tmp_path)
    half_done(place)
    left = [tmp_path / "train.zarr" / HOOK / ".0.0a1b2c3d.tmp"]
    left.append(tmp_path / "train.commits" / ".00000002.json.0a1b2c3d.tmp")
    for path in left:
        path.write_bytes(b"half")
    assert stores.open_writer(place, RAW).missing() == [2, 3]
    assert not any(path.exists() for path in left)


def test_odd_characters_in_the_name_of_a_hook_are_kept(tmp_path):
    odd = "a\u2028b c"
    place = open_place(tmp_path)
    layout = stores.layout(widths={odd: 2})
    assert Store.open(stores.make(place, layout)).hooks == (odd,)


@pytest.mark.parametrize("dtype", stores.DTYPES)
@pytest.mark.parametrize("chunk_seqs", [1, 3, 99])
def test_store_bytes_are_those_of_the_files_with_what_fills_them_up(
    tmp_path, dtype, chunk_seqs
):
    layout = stores.layout(dtype, chunk_seqs=chunk_seqs)
    write_all(open_place(tmp_path), layout)
    found = sum(len(b) for n, b in split_of(open_place(tmp_path)).items() if "/c/" in n)
    files = sum("/c/" in name for name in split_of(open_place(tmp_path)))
    vectors = sum(WIDTHS.values()) * 2 * 8
    assert layout.store_bytes(NUM_SEQS) == found - 4 * files - vectors


def test_bytes_of_a_sequence_do_not_hang_on_the_chunks():
    small, large = (stores.layout(chunk_seqs=n) for n in (1, 99))
    assert small.sequence_bytes() == large.sequence_bytes() == small.store_bytes(1)
