"""The order of training: every row once an epoch, and any position can be resumed."""

import gc
import itertools
import threading
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.order import TrainingOrder, together
from storage.places import open_place
from storage.store import Store, StoreError
from tests.storage import stores

CHUNK_ROWS = 12


class FakeStore:
    """Chunks whose rows are numbered, so that order can be read off."""

    def __init__(self, masks, dtype=torch.float32, first_row=0):
        self._masks = [np.array(mask, bool) for mask in masks]
        ends = np.cumsum([0, *map(len, self._masks)]) + first_row
        self._rows = [np.arange(a, b) for a, b in itertools.pairwise(ends)]
        self._dtype = dtype
        self.opened = []
        self.checked = []
        self.missing = set()

    def unmasked_rows(self):
        return np.array([mask.sum() for mask in self._masks], np.int64)

    def unmasked(self, chunk):
        return np.flatnonzero(self._masks[chunk])

    def unmasked_numbers(self):
        pairs = zip(self._rows, self._masks, strict=True)
        return sorted(int(row) for rows, mask in pairs for row in rows[mask])

    def documents(self, chunk):
        return self._rows[chunk] // 4

    def open_chunk(self, hook, chunk, *, check):
        if chunk in self.missing:
            raise StoreError(f"chunk {chunk} is missing")
        self.opened.append(chunk)
        if check:
            self.checked.append(chunk)
        values = torch.from_numpy(self._rows[chunk]).to(self._dtype)[:, None]
        bits = values.view(torch.uint16) if values.dtype == torch.bfloat16 else values
        return bits.repeat(1, 2).numpy()

    def d_in(self, hook):
        return 2

    def dtype(self, hook):
        return self._dtype


def order(store, batch=7, open_chunks=3, seed=0, check=True):
    return TrainingOrder(
        store,
        "h",
        seed=seed,
        batch_tokens=batch,
        open_chunks=open_chunks,
        check=check,
    )


def full(num_chunks):
    return [[True] * CHUNK_ROWS] * num_chunks


def rows(batches):
    return torch.cat([x[:, 0] for x in batches]).long().tolist()


def epoch(it, number=0, prefetch=False):
    steps = it.steps_per_epoch
    return list(it.batches(number * steps, (number + 1) * steps, prefetch=prefetch))


MASKS = st.lists(
    st.lists(st.booleans(), min_size=1, max_size=CHUNK_ROWS), min_size=1, max_size=12
).filter(lambda masks: any(map(any, masks)))
BATCH = st.integers(1, 40)
OPEN = st.integers(1, 14)
SEED = st.integers(0, 3)


@settings(deadline=None)
@given(masks=MASKS, batch=BATCH, k=OPEN, seed=SEED, prefetch=st.booleans())
def test_every_unmasked_row_comes_exactly_once_in_each_epoch(
    masks, batch, k, seed, prefetch
):
    store = FakeStore(masks)
    it = order(store, batch, k, seed)
    for number in range(2):
        seen = rows(epoch(it, number, prefetch))
        assert sorted(seen) == store.unmasked_numbers()


@settings(deadline=None)
@given(
    masks=MASKS,
    batch=BATCH,
    k=OPEN,
    seed=SEED,
    start=st.integers(0, 60),
    length=st.integers(0, 60),
    prefetch=st.booleans(),
)
def test_any_span_of_steps_gives_the_same_bytes(
    masks, batch, k, seed, start, length, prefetch
):
    whole = order(FakeStore(masks), batch, k, seed)
    expected = list(whole.batches(0, start + length, prefetch=False))[start:]
    resumed = order(FakeStore(masks), batch, k, seed)
    found = list(resumed.batches(start, start + length, prefetch=prefetch))
    assert [x.tolist() for x in found] == [x.tolist() for x in expected]


@settings(deadline=None)
@given(masks=MASKS, batch=BATCH, k=OPEN, stop=st.integers(0, 60), more=SEED)
def test_a_reader_that_stops_early_is_resumed_from_its_position(
    masks, batch, k, stop, more
):
    it = order(FakeStore(masks), batch, k)
    end = stop + more
    reader = it.batches(0, end, prefetch=True)
    before = list(itertools.islice(reader, stop))
    reader.close()
    position = it.position(stop)
    step = position.epoch * it.steps_per_epoch + position.cursor // batch
    fresh = order(FakeStore(masks), batch, k, seed=position.seed)
    after = list(fresh.batches(step, end, prefetch=True))
    whole = list(it.batches(0, end, prefetch=False))
    assert [x.tolist() for x in before + after] == [x.tolist() for x in whole]


@settings(deadline=None)
@given(train=MASKS, held_out=MASKS, batch=BATCH, k=OPEN)
def test_two_splits_are_read_side_by_side_without_touching_each_other(
    train, held_out, batch, k
):
    stores = [FakeStore(train), FakeStore(held_out, first_row=1000)]
    readers = [order(store, batch, k) for store in stores]
    spans = [it.batches(0, it.steps_per_epoch, prefetch=True) for it in readers]
    pairs = list(itertools.zip_longest(*spans))
    for store, batches in zip(stores, zip(*pairs, strict=True), strict=True):
        seen = rows([x for x in batches if x is not None])
        assert sorted(seen) == store.unmasked_numbers()


@settings(deadline=None)
@given(masks=MASKS, batch=BATCH, k=OPEN, seed=SEED)
def test_the_rows_picked_are_those_of_the_batch(masks, batch, k, seed):
    store = FakeStore(masks)
    it = order(store, batch, k, seed)
    for step, x in enumerate(epoch(it)):
        numbers = [store._rows[chunk][inside] for chunk, inside in it.picked(step)]
        assert np.concatenate(numbers).tolist() == rows([x])


@settings(deadline=None)
@given(masks=MASKS, batch=BATCH, k=OPEN, seed=SEED)
def test_a_batch_takes_its_rows_group_by_group(masks, batch, k, seed):
    store = FakeStore(masks)
    it = order(store, batch, k, seed)
    place = {chunk: i // k for i, chunk in enumerate(it.chunks(0))}
    groups = [
        place[chunk]
        for step in range(it.steps_per_epoch)
        for chunk, _ in it.picked(step)
    ]
    assert groups == sorted(groups)


@pytest.mark.parametrize("prefetch", [False, True])
def test_batches_may_be_kept(prefetch):
    it = order(FakeStore(full(20)))
    stop = 5 * it.steps_per_epoch
    kept = list(it.batches(0, stop, prefetch=prefetch))
    fleeting = [x.tolist() for x in it.batches(0, stop, prefetch=prefetch)]
    assert [x.tolist() for x in kept] == fleeting


def test_what_is_made_of_a_batch_outlives_it():
    it = order(FakeStore(full(20)))
    views = [x[2:4].t().numpy() for x in epoch(it, prefetch=True)]
    expected = [x[2:4].t().tolist() for x in epoch(it)]
    assert [view.tolist() for view in views] == expected


def test_the_memory_of_a_batch_that_is_gone_is_used_again():
    it = order(FakeStore(full(20)))
    places = {x.data_ptr() for x in it.batches(0, 30, prefetch=False)}
    assert len(places) <= 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_batches_have_the_dtype_of_the_store(dtype):
    store = FakeStore(full(4), dtype)
    batches = epoch(order(store))
    assert {x.dtype for x in batches} == {dtype}
    assert sorted(rows(batches)) == store.unmasked_numbers()


def test_all_batches_but_an_epochs_last_are_full():
    it = order(FakeStore([[True] * 10] * 3))
    assert [len(x) for x in epoch(it, prefetch=True)] == [7, 7, 7, 7, 2]


@pytest.mark.parametrize("change", [{"seed": 1}, {"open_chunks": 2}])
def test_seed_and_open_chunks_change_the_order(change):
    first = rows(epoch(order(FakeStore(full(8)))))
    assert rows(epoch(order(FakeStore(full(8)), **change))) != first


def test_epochs_have_different_orders():
    it = order(FakeStore(full(8)))
    assert rows(epoch(it, 0)) != rows(epoch(it, 1))


def test_position_is_seed_epoch_and_rows_consumed():
    it = order(FakeStore([[True] * 10] * 3), seed=5)
    assert it.position(0) == (5, 0, 0)
    assert it.position(7) == (5, 1, 14)


@pytest.mark.parametrize("prefetch", [False, True])
def test_a_chunk_is_checked_when_it_is_first_opened(prefetch):
    store = FakeStore(full(8))
    it = order(store)
    epoch(it, 0, prefetch)
    assert sorted(store.checked) == list(range(8))
    epoch(it, 1, prefetch)
    assert len(store.checked) == 8
    assert len(store.opened) == 16


def test_without_check_no_chunk_is_checked():
    store = FakeStore(full(8))
    epoch(order(store, check=False))
    assert store.checked == []


def test_chunks_without_unmasked_rows_are_not_opened():
    store = FakeStore([[True] * 3, [False] * 3, [False] * 3, [True] * 3])
    epoch(order(store), prefetch=True)
    assert sorted(store.opened) == [0, 3]


@settings(deadline=None)
@given(masks=MASKS, batch=BATCH, k=OPEN)
def test_reading_ahead_opens_each_chunk_once_and_nothing_after_the_end(masks, batch, k):
    store = FakeStore(masks)
    it = order(store, batch, k)
    epoch(it, prefetch=True)
    assert sorted(store.opened) == np.flatnonzero(store.unmasked_rows()).tolist()


class CountingStore(FakeStore):
    """Knows how many of the chunks that it gave are still held."""

    def __init__(self, masks):
        super().__init__(masks)
        self._given = []

    def open_chunk(self, hook, chunk, *, check):
        values = super().open_chunk(hook, chunk, check=check)
        self._given.append(weakref.ref(values))
        return values

    def num_held(self):
        return sum(ref() is not None for ref in self._given)


@pytest.mark.parametrize("num_chunks", [16, 160])
@pytest.mark.parametrize("prefetch", [False, True])
def test_however_large_the_store_three_groups_are_open_at_most(num_chunks, prefetch):
    store = CountingStore(full(num_chunks))
    it = order(store, batch=4, open_chunks=4)
    batches = it.batches(0, it.steps_per_epoch, prefetch=prefetch)
    assert max(store.num_held() for _ in batches) <= 3 * 4


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("batches")]


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_closing_early_leaves_no_thread(taken):
    it = order(FakeStore(full(20)))
    reader = it.batches(0, 10 * it.steps_per_epoch, prefetch=True)
    list(itertools.islice(reader, taken))
    reader.close()
    assert threads() == []


def test_dropping_the_reader_leaves_no_thread():
    it = order(FakeStore(full(20)))
    for _ in it.batches(0, 10 * it.steps_per_epoch, prefetch=True):
        break
    gc.collect()
    assert threads() == []


@pytest.mark.parametrize("prefetch", [False, True])
def test_a_chunk_that_cannot_be_read_stops_the_reader(prefetch):
    store = FakeStore(full(8))
    store.missing.add(5)
    with pytest.raises(StoreError, match="chunk 5 is missing"):
        epoch(order(store), prefetch=prefetch)
    assert threads() == []


def test_an_empty_span_reads_nothing():
    store = FakeStore(full(2))
    assert list(order(store).batches(3, 3, prefetch=True)) == []
    assert store.opened == []


LAYOUTS = [
    stores.layout(dtype, codec, shard_chunks)
    for dtype in stores.DTYPES
    for codec in ("none", "shuffle-zstd")
    for shard_chunks in (None, 2)
]


def order_of(store, check=True, hook=stores.HOOK):
    return TrainingOrder(
        store, hook, seed=0, batch_tokens=7, open_chunks=2, check=check
    )


@pytest.mark.parametrize(
    "layout", LAYOUTS, ids=lambda x: f"{x.dtype}-{x.codec}-{x.shard_chunks}"
)
@pytest.mark.parametrize("prefetch", [False, True])
def test_the_rows_of_a_store_come_as_they_are_stored(place, layout, prefetch):
    store = Store.open(stores.make(place, layout))
    batches = epoch(order_of(store), prefetch=prefetch)
    expected = [store.chunk(stores.HOOK, i) for i in range(store.num_chunks)]
    assert {x.dtype for x in batches} == {store.dtype(stores.HOOK)}
    assert sorted(torch.cat(batches).tolist()) == sorted(torch.cat(expected).tolist())


def numbers(store, hook, batch):
    """Return which row of the store each row of a batch is."""
    whole = store.read(hook, 0, store.num_tokens)
    is_same = (batch[:, None] == whole).all(2)
    assert (is_same.sum(1) == 1).all()
    return is_same.int().argmax(1).tolist()


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("start", [0, 3])
def test_hooks_that_are_read_together_give_the_same_rows_in_the_same_places(
    place, prefetch, start
):
    store = Store.open(stores.make(place, stores.layout()))
    hooks = (stores.HOOK, stores.OTHER)
    orders = {hook: order_of(store, hook=hook) for hook in hooks}
    stop = 2 * orders[stores.HOOK].steps_per_epoch
    seen = []
    for batch in together(orders, start, stop, prefetch=prefetch):
        one, other = (numbers(store, hook, batch[hook]) for hook in hooks)
        assert one == other
        seen += one
    alone = order_of(store).batches(start, stop, prefetch=prefetch)
    assert seen == [n for x in alone for n in numbers(store, stores.HOOK, x)]


def test_hooks_that_are_read_together_leave_no_thread_behind(tmp_path):
    store = Store.open(stores.make(open_place(tmp_path), stores.layout()))
    orders = {hook: order_of(store, hook=hook) for hook in store.hooks}
    batches = together(orders, 0, 10, prefetch=True)
    next(batches)
    assert threads()
    batches.close()
    assert threads() == []


def test_an_altered_chunk_stops_the_reader_that_checks(tmp_path):
    place = open_place(tmp_path)
    store = Store.open(stores.make(place, stores.layout()))
    name = f"train.zarr/{stores.HOOK}/activations/c/1/0"
    altered = bytearray(place.get(name))
    altered[100] ^= 1
    place.put(name, altered)
    with pytest.raises(StoreError, match=r"chunk 1 of .* fit their checksum"):
        epoch(order_of(store), prefetch=True)
    assert len(epoch(order_of(store, check=False), prefetch=True)) == 5
