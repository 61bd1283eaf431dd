"""The engine of a harvest: the same bytes by any way to them, and a bounded queue."""

import contextlib
import errno
import itertools
import os
import threading
from concurrent import futures
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.places import LocalPlace
from storage.store import Store
from tasks import harvesting
from tasks.interruption import Interrupted
from tests.storage import stores
from tests.tasks import array_sources
from tests.tasks.array_sources import CTX, HOOK, WIDTHS
from trilemma import harvest as library

SHIFT = 1 / 64
WAIT_SECONDS = 30


class Full:
    """A place on a disk that is full from its n-th put on."""

    def __init__(self, place, puts):
        self._place = place
        self._left = itertools.count(puts, -1)

    def put(self, name, *parts):
        self._check(name)
        self._place.put(name, *parts)

    def put_all(self, objects):
        for name in list(objects)[:1]:
            self._check(name)
        self._place.put_all(objects)

    def _check(self, name):
        if next(self._left) <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)

    def __getattr__(self, name):
        return getattr(self._place, name)


class Slow:
    """A place that counts parts, and is slow enough to be overrun.

    The first put of a part waits until as many parts as a full queue allows have been
    begun, and then a moment longer for one that should not have been.
    """

    def __init__(self, place, allowed, total):
        self._place = place
        self._allowed = allowed
        self._total = total
        self._changed = threading.Condition()
        self.begun = self.written = self.most = 0

    def begin(self):
        with self._changed:
            self.begun += 1
            self.most = max(self.most, self.begun - self.written)
            self._changed.notify_all()

    def put_all(self, objects):
        if any("/activations/" in name and "/c/" in name for name in objects):
            with self._changed:
                allowed = min(self._total, self.written + self._allowed)
                assert self._changed.wait_for(
                    lambda: self.begun >= allowed, WAIT_SECONDS
                )
                self._changed.wait_for(lambda: self.begun > allowed, 0.05)
        self._place.put_all(objects)

    def put(self, name, *parts):
        self._place.put(name, *parts)
        if ".commits/" in name:
            with self._changed:
                self.written += 1
                self._changed.notify_all()

    def __getattr__(self, name):
        return getattr(self._place, name)


def opened(place, found):
    """Return the store that a finished split is, once committed."""
    stores.commit(place, found.files)
    return Store.open(f"{place.url}/train.zarr")


def stopped_after(parts):
    """Return what asks to stop when so many parts have been begun."""
    calls = itertools.count()
    return lambda: next(calls) >= parts


@pytest.mark.parametrize("codec", ["none", "shuffle-zstd"])
@pytest.mark.parametrize("shard_chunks", [None, 2])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_values_and_norms_read_back_are_those_of_the_source(
    tmp_path, dtype, shard_chunks, codec
):
    x = array_sources.activations(10)
    layout = array_sources.layout(dtype, codec, shard_chunks)
    place = LocalPlace(tmp_path)
    source = array_sources.source(x, 4)
    store = opened(place, array_sources.harvest(place, layout, source, 4))
    for hook in WIDTHS:
        expected = x[hook].to(getattr(torch, dtype))
        assert torch.equal(store.read(hook, 0, store.num_tokens), expected)
        norm = torch.from_numpy(store.group[f"{hook}/norm"][:])
        torch.testing.assert_close(norm, expected.float().norm(dim=1))


def test_int8_reads_back_to_half_a_step_with_the_norm_of_what_is_read(tmp_path):
    x = array_sources.activations(10)
    x[HOOK][5] = 0
    layout = array_sources.layout("int8")
    place = LocalPlace(tmp_path)
    source = array_sources.source(x, 4)
    store = opened(place, array_sources.harvest(place, layout, source, 4))
    for hook in WIDTHS:
        seen = store.read(hook, 0, store.num_tokens)
        step = x[hook].abs().amax(1, keepdim=True) / 127
        assert ((seen - x[hook]).abs() <= 0.5001 * step).all()
        norm = torch.from_numpy(store.group[f"{hook}/norm"][:])
        torch.testing.assert_close(norm, seen.norm(dim=1))


def test_tokens_and_documents_are_those_of_the_source(tmp_path):
    source = array_sources.source(array_sources.activations(10), 4)
    place, layout = LocalPlace(tmp_path), array_sources.layout()
    store = opened(place, array_sources.harvest(place, layout, source, 4))
    assert np.array_equal(store.group["tokens"][:], array_sources.tokens_of(10))
    assert np.array_equal(store.group["document"][:], array_sources.documents_of(10))
    assert (store.mask(0, 40).reshape(10, CTX) == [2, 0, 0, 0]).all()


@settings(deadline=None, max_examples=25)
@given(
    num_seqs=st.integers(1, 30),
    chunk_seqs=st.integers(1, 7),
    batch_seqs=st.integers(1, 20),
    shard_chunks=st.none() | st.integers(1, 3),
    dtype=st.sampled_from(["float32", "int8"]),
    num_workers=st.integers(1, 3),
    stop=st.none() | st.integers(0, 12),
    data=st.data(),
)
def test_neither_workers_nor_a_stop_change_the_bytes(
    tmp_path_factory,
    num_seqs,
    chunk_seqs,
    batch_seqs,
    shard_chunks,
    dtype,
    num_workers,
    stop,
    data,
):
    folder = tmp_path_factory.mktemp("harvest")
    layout = array_sources.layout(
        dtype, shard_chunks=shard_chunks, chunk_seqs=chunk_seqs
    )
    x = array_sources.activations(num_seqs)
    source = array_sources.source(x, batch_seqs, batch_shift=SHIFT)
    alone = array_sources.harvest(
        LocalPlace(folder / "alone"), layout, source, batch_seqs
    )
    place = LocalPlace(folder / "shared")
    if stop is not None:
        worker = data.draw(st.integers(0, num_workers - 1))
        with contextlib.suppress(Interrupted):
            array_sources.write(
                place,
                layout,
                source,
                batch_seqs,
                worker=worker,
                num_workers=num_workers,
                asked=stopped_after(stop),
            )
    for worker in data.draw(st.permutations(range(num_workers))):
        array_sources.write(
            place, layout, source, batch_seqs, worker=worker, num_workers=num_workers
        )
    assert array_sources.finish(place, layout, source) == alone


@pytest.mark.parametrize("batch_seqs", [1, 4, 7, 100])
def test_batches_of_a_group_begin_at_its_first_sequence(tmp_path, batch_seqs):
    x = array_sources.activations(25)
    layout = array_sources.layout(shard_chunks=2, chunk_seqs=2)
    whole = []
    source = array_sources.source(x, batch_seqs, spans=whole)
    place = LocalPlace(tmp_path / "whole")
    array_sources.write(place, layout, source, batch_seqs)
    assert [span.stop for span in whole[:-1]] == [span.start for span in whole[1:]]
    assert all(span.stop - span.start >= batch_seqs for span in whole[:-1])
    for part in range(array_sources.open_writer(place, layout, source).num_parts):
        place.delete(f"train.commits/{part:08d}.json")
        again = []
        source = array_sources.source(x, batch_seqs, spans=again)
        array_sources.write(place, layout, source, batch_seqs)
        (span,) = again
        assert span in whole
        assert span.start <= 4 * part < span.stop


def test_parts_queued_before_a_stop_are_committed(tmp_path):
    x, layout = array_sources.activations(24), array_sources.layout()
    source, place = array_sources.source(x, 3), LocalPlace(tmp_path)
    with pytest.raises(Interrupted):
        array_sources.write(place, layout, source, 3, asked=stopped_after(3))
    assert array_sources.open_writer(place, layout, source).missing() == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("puts", [0, 1, 7, 14, 15])
def test_disk_that_fills_up_fails_as_that_and_loses_nothing(tmp_path, puts):
    x, layout = array_sources.activations(24), array_sources.layout()
    source = array_sources.source(x, 5)
    alone = array_sources.harvest(LocalPlace(tmp_path / "alone"), layout, source, 5)
    place = LocalPlace(tmp_path / "full")
    writer = array_sources.open_writer(place, layout, source)
    assert 2 * writer.num_parts == 16  # a put of files and one of a record for each
    with pytest.raises(OSError) as error:
        array_sources.write(Full(place, puts), layout, source, 5)
    assert error.value.errno == errno.ENOSPC
    records = sorted((tmp_path / "full" / "train.commits").glob("*.json"))
    assert len(records) == writer.num_parts - len(writer.missing())
    assert len(records) >= (puts - 2) // 2
    written = {path: path.stat().st_mtime_ns for path in records}
    array_sources.write(place, layout, source, 5)
    assert {path: path.stat().st_mtime_ns for path in records} == written
    assert array_sources.finish(place, layout, source) == alone


# Of a group of nine sequences, whose batches hold eight and one, and of later ones.
@pytest.mark.parametrize("sequence", [0, 7, 8, 13, 17, 23])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_row_that_is_not_finite_is_named_by_its_place_in_the_split(
    tmp_path, dtype, sequence
):
    x, row = array_sources.activations(24), sequence * CTX + 1
    x[HOOK][row, 3] = torch.nan
    source = array_sources.source(x, 8)
    with pytest.raises(library.RowError) as error:
        array_sources.write(
            LocalPlace(tmp_path), array_sources.layout(dtype), source, 8
        )
    assert str(error.value) == (
        f"harvest: {HOOK} is not finite at row {row} of train; run the LM in another "
        "dtype (harvest.lm_dtype), or make its cache again"
    )


@pytest.mark.parametrize("sequence", [0, 7, 8, 13, 17, 23])
def test_row_that_overflows_float16_is_named_by_its_place_in_the_split(
    tmp_path, sequence
):
    x, row = array_sources.activations(24), sequence * CTX + 1
    x[HOOK][row, 3] = 70_000
    source = array_sources.source(x, 8)
    with pytest.raises(library.RowError) as error:
        array_sources.write(
            LocalPlace(tmp_path), array_sources.layout("float16"), source, 8
        )
    assert str(error.value) == (
        f"store.dtype: float16 cannot hold the 70,000 in row {row} of train; use "
        "bfloat16 or float32"
    )


def test_parts_before_a_row_that_cannot_be_stored_are_committed(tmp_path):
    x = array_sources.activations(24)
    x[HOOK][70] = torch.inf
    source, layout = array_sources.source(x, 3), array_sources.layout()
    with pytest.raises(library.NonFiniteError, match="row 70 of train"):
        array_sources.write(LocalPlace(tmp_path), layout, source, 3)
    writer = array_sources.open_writer(LocalPlace(tmp_path), layout, source)
    assert writer.missing() == [5, 6, 7]


@pytest.mark.parametrize("most_bytes", [None, "two parts", "less than a part"])
def test_slow_disk_never_has_more_parts_waiting_than_the_queue_holds(
    tmp_path, monkeypatch, most_bytes
):
    layout = array_sources.layout()
    room = {None: harvesting._QUEUED_PARTS, "two parts": 2, "less than a part": 1}
    if most_bytes is not None:
        part = layout.store_bytes(3)
        size = 2 * part if most_bytes == "two parts" else part - 1
        monkeypatch.setattr(harvesting, "_QUEUED_BYTES", size)
    source = array_sources.source(array_sources.activations(48), 3)
    # Those queued or being written, and the one that is being computed.
    place = Slow(LocalPlace(tmp_path), room[most_bytes] + 1, total=16)

    def tokens(span):
        place.begin()
        return source.tokens(span)

    queued = []
    array_sources.write(
        place,
        layout,
        source._replace(tokens=tokens),
        3,
        report=lambda progress: queued.append(progress.queued),
    )
    assert place.most == room[most_bytes] + 1
    assert max(queued) <= room[most_bytes]


def test_parts_that_are_written_are_not_counted_as_waiting():
    may_write = threading.Event()
    writer = SimpleNamespace(
        layout=array_sources.layout(),
        part_sequences=lambda part: slice(part, part + 1),
        write_part=lambda part, chunks: may_write.wait(WAIT_SECONDS),
    )
    with harvesting._Writing(writer) as writing:
        writing.submit(0, [])
        writing.submit(1, [])
        before = writing.queued
        may_write.set()
        futures.wait(writing._pending)
        assert (before, writing.queued) == (2, 0)
