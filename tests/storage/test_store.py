"""The store: what is written reads back; damage is an error and never zeros."""

import json
import mmap

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import artifacts
from storage.artifacts import ArtifactError
from storage.places import open_place
from storage.store import Store, StoreError
from tests.storage import stores
from tests.storage.stores import CTX, DTYPES, HOOK, NUM_SEQS, OTHER, WIDTHS

LAYOUTS = [
    stores.layout(dtype, codec, shard_chunks)
    for dtype in DTYPES
    for codec in ("none", "shuffle-zstd")
    for shard_chunks in (None, 2)
]
RAW = stores.layout()
SHARDED = stores.layout(shard_chunks=2)
SQUEEZED = stores.layout(codec="shuffle-zstd")


def identify(layout):
    return f"{layout.dtype}-{layout.codec}-{layout.shard_chunks}"


def expected(hook, dtype, width, num_seqs=NUM_SEQS):
    """Return what a reader should get, and how far it may be off."""
    x = stores.x_of(hook, width, num_seqs)
    if dtype == "int8":
        return x, x.abs().amax(1, keepdim=True) / 127 / 2 * 1.001
    return x.to(getattr(torch, dtype)), torch.zeros(len(x), 1)


def assert_close(found, hook, dtype, width, num_seqs=NUM_SEQS):
    x, off = expected(hook, dtype, width, num_seqs)
    assert found.dtype == x.dtype
    assert bool(((found.double() - x.double()).abs() <= off).all())


@pytest.mark.parametrize("layout", LAYOUTS, ids=identify)
def test_what_was_written_reads_back(place, layout):
    store = Store.open(stores.make(place, layout))
    for hook, width in WIDTHS.items():
        assert store.dtype(hook) == expected(hook, layout.dtype, width)[0].dtype
        assert_close(store.read(hook, 0, store.num_tokens), hook, layout.dtype, width)


@settings(deadline=None, max_examples=25)
@given(
    num_seqs=st.integers(1, 20),
    chunk_seqs=st.integers(1, 25),
    shard_chunks=st.one_of(st.none(), st.integers(1, 4)),
    dtype=st.sampled_from(DTYPES),
    codec=st.sampled_from(["none", "shuffle-zstd"]),
    data=st.data(),
)
def test_any_rows_of_any_sizes_read_back(
    tmp_path_factory, num_seqs, chunk_seqs, shard_chunks, dtype, codec, data
):
    layout = stores.layout(dtype, codec, shard_chunks, chunk_seqs=chunk_seqs)
    place = open_place(tmp_path_factory.mktemp("place"))
    store = Store.open(stores.make(place, layout, num_seqs))
    rows = st.integers(0, store.num_tokens)
    start, stop = sorted([data.draw(rows), data.draw(rows)])
    whole = torch.cat([store.read(HOOK, i, i + 1) for i in range(store.num_tokens)])
    assert_close(whole, HOOK, dtype, WIDTHS[HOOK], num_seqs)
    assert torch.equal(store.read(HOOK, start, stop), whole[start:stop])
    array = np.asarray(store.group[f"{HOOK}/activations"][:])
    opened = [stored(store, HOOK, i) for i in range(store.num_chunks)]
    assert np.array_equal(array, np.concatenate(opened))
    assert np.array_equal(
        np.asarray(store.group["mask"][start:stop]), store.mask(start, stop)
    )


def stored(store, hook, chunk):
    """Return a chunk as plain Zarr has it."""
    x = store.open_chunk(hook, chunk, check=False)
    if store.dtypes[hook] != "int8":
        return x
    rows = slice(chunk * store.chunk_seqs * CTX, (chunk + 1) * store.chunk_seqs * CTX)
    scale = np.asarray(store.group[f"{hook}/scale"][rows])
    return (x / scale[:, None]).round().astype(np.int8)


@pytest.mark.parametrize("layout", LAYOUTS, ids=identify)
def test_plain_zarr_reads_every_array(tmp_path, layout):
    place = open_place(tmp_path)
    writer = stores.open_writer(place, layout)
    group = zarr.open_group(stores.make(place, layout), mode="r")
    chunks = [stores.chunk_data(writer, i) for i in range(writer.num_chunks)]
    assert np.array_equal(
        group["tokens"][:], np.concatenate([c.tokens for c in chunks])
    )
    documents = np.concatenate([c.document for c in chunks])
    assert np.array_equal(group["document"][:], documents)
    assert np.array_equal(group["mask"][:], np.tile([2, 0, 0, 0], NUM_SEQS))
    assert group["unmasked_rows"][:].tolist() == [9, 9, 9, 3]
    for hook, width in WIDTHS.items():
        own = [chunk.hooks[hook] for chunk in chunks]
        values = np.concatenate([found.values for found in own])
        assert np.array_equal(group[f"{hook}/activations"][:], values)
        norm = np.concatenate([found.norm for found in own])
        assert np.array_equal(group[f"{hook}/norm"][:], norm)
        if layout.dtype == "int8":
            scale = np.concatenate([found.scale for found in own])
            assert np.array_equal(group[f"{hook}/scale"][:], scale)
        assert group[f"{hook}/activations"].attrs["dtype"] == layout.dtype
        assert group[f"{hook}/mean"][:].tolist() == (np.arange(width) / 2).tolist()


def test_plain_zarr_reads_a_store_in_its_place(place):
    store = Store.open(stores.make(place, SHARDED))
    x = torch.from_numpy(np.asarray(store.group[f"{HOOK}/activations"][:]))
    assert torch.equal(x, store.read(HOOK, 0, store.num_tokens))


def test_readme_of_bfloat16_holds(tmp_path):
    path = stores.make(open_place(tmp_path), stores.layout("bfloat16"))
    array = zarr.open_group(path, mode="r")[f"{HOOK}/activations"]
    x = torch.from_numpy(np.asarray(array[0:8])).view(torch.bfloat16)
    assert torch.equal(x, Store.open(path).read(HOOK, 0, 8))


@pytest.mark.parametrize("layout", [RAW, SHARDED], ids=identify)
def test_raw_chunk_on_a_local_disk_is_mapped(tmp_path, layout):
    store = Store.open(stores.make(open_place(tmp_path), layout))
    for chunk in range(store.num_chunks):
        x = store.open_chunk(HOOK, chunk, check=True)
        assert is_mapped(x)


def is_mapped(x):
    while isinstance(x, np.ndarray):
        x = x.base
    return isinstance(x, memoryview) and isinstance(x.obj, mmap.mmap)


def test_opening_reads_no_chunk(place):
    url = stores.make(place, RAW)
    store = Store.within(Watched(place), url.rpartition("/")[2])
    assert store.statistics(HOOK)["count"] == 30


class Watched:
    """A place whose chunks cannot be read."""

    def __init__(self, place):
        self._place = place

    def get(self, name):
        assert name.endswith(".json")
        return self._place.get(name)

    def __getattr__(self, name):
        return getattr(self._place, name)


def test_store_knows_its_tokens_documents_masks_and_statistics(place):
    store = Store.open(stores.make(place, SHARDED))
    assert store.documents(3).tolist() == [9] * CTX
    assert store.unmasked(3).tolist() == [1, 2, 3]
    assert store.unmasked_rows().tolist() == [9, 9, 9, 3]
    assert store.mask(3, 6).tolist() == [0, 2, 0]
    assert store.statistics(OTHER) == {"count": 30, "mean_squared_norm": 1.0}
    assert store.mean(HOOK).tolist() == (np.arange(6) / 2).tolist()
    assert store.provenance == {"lm": "x", "ratio": 0.5}
    assert (store.d_in(HOOK), store.d_in(OTHER)) == (6, 3)


def test_sequences_give_every_row_once_in_stored_order(place):
    store = Store.open(stores.make(place, RAW))
    batches = list(store.sequences(HOOK, 2, limit=None))
    x = torch.cat([batch.x for batch in batches]).view(-1, WIDTHS[HOOK])
    assert torch.equal(x, stores.x_of(HOOK, WIDTHS[HOOK]))
    tokens = torch.cat([batch.tokens for batch in batches])
    assert torch.equal(tokens.view(-1), torch.arange(NUM_SEQS * CTX))
    assert [len(batch.document) for batch in batches] == [2, 1, 2, 1, 2, 1, 1]


@pytest.mark.parametrize("limit", [0, 1, 5, 6, 99])
def test_sequences_stop_at_the_limit(tmp_path, limit):
    store = Store.open(stores.make(open_place(tmp_path), RAW))
    batches = list(store.sequences(HOOK, 2, limit=limit))
    assert sum(len(batch.mask) for batch in batches) == min(limit, NUM_SEQS)


@pytest.mark.parametrize("dtype", DTYPES)
def test_chunk_leaves_out_masked_rows(tmp_path, dtype):
    store = Store.open(stores.make(open_place(tmp_path), stores.layout(dtype)))
    kept = torch.cat([store.chunk(HOOK, i) for i in range(store.num_chunks)])
    whole = store.read(HOOK, 0, store.num_tokens).view(NUM_SEQS, CTX, -1)
    assert torch.equal(kept, whole[:, 1:].reshape(len(kept), -1))


@pytest.mark.parametrize("num", [1, 9, 10, 10**6])
def test_first_rows_are_the_first_that_are_not_masked(tmp_path, num):
    store = Store.open(stores.make(open_place(tmp_path), stores.layout("bfloat16")))
    kept = torch.cat([store.chunk(HOOK, i) for i in range(store.num_chunks)])
    assert torch.equal(store.first_rows(HOOK, num), kept[:num].float())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_rows_are_found_by_their_places_among_those_that_are_not_masked(
    tmp_path, share
):
    store = Store.open(stores.make(open_place(tmp_path), stores.layout("bfloat16")))
    kept = torch.cat([store.chunk(HOOK, i) for i in range(store.num_chunks)])
    places = np.flatnonzero(np.random.default_rng(0).random(len(kept)) < share)
    assert store.num_chunks > 2
    assert torch.equal(store.rows_at(HOOK, places), kept[places].float())


def test_read_gives_masked_rows_too_and_the_mask_tells_which_count(tmp_path):
    store = Store.open(stores.make(open_place(tmp_path), RAW))
    x, mask = store.read(HOOK, 0, store.num_tokens), store.mask(0, store.num_tokens)
    assert torch.equal(x, stores.x_of(HOOK, WIDTHS[HOOK]))
    kept = torch.cat([store.chunk(HOOK, i) for i in range(store.num_chunks)])
    assert torch.equal(x[mask == 0], kept)
    assert len(kept) < len(x)


def test_an_open_chunk_of_int8_takes_four_times_its_stored_size(tmp_path):
    store = Store.open(stores.make(open_place(tmp_path), stores.layout("int8")))
    x = store.open_chunk(HOOK, 0, check=True)
    stored = store.group[f"{HOOK}/activations"][: len(x)]
    assert x.nbytes == 4 * stored.nbytes


DAMAGED = [RAW, SHARDED, SQUEEZED]


def chunk_file(layout):
    """Return the file of chunk 2, and how its error begins."""
    name = f"{HOOK}/activations/c/{1 if layout.shard_chunks else 2}/0"
    return (
        f"train.zarr/{name}",
        rf"train\.zarr/{name}: chunk 2 of {HOOK} cannot be read",
    )


def reads_of_chunk_2(store):
    first = 2 * store.chunk_seqs * CTX
    return [
        lambda: store.open_chunk(HOOK, 2, check=True),
        lambda: store.read(HOOK, first, first + 1),
        lambda: store.chunk(HOOK, 2),
        lambda: list(store.sequences(HOOK, 2, limit=None)),
    ]


@pytest.mark.parametrize("layout", DAMAGED, ids=identify)
def test_deleted_chunk_is_an_error_and_never_zeros(place, layout):
    store = Store.open(stores.make(place, layout))
    file, message = chunk_file(layout)
    place.delete(file)
    for read in reads_of_chunk_2(store):
        with pytest.raises(StoreError, match=f"{message}: its file is missing; run"):
            read()
    with pytest.raises(ArtifactError, match=f"{file}: missing"):
        Store.open(store.url)


@pytest.mark.parametrize("layout", DAMAGED, ids=identify)
def test_altered_byte_anywhere_in_a_chunk_is_an_error(place, layout):
    url = stores.make(place, layout)
    file, message = chunk_file(layout)
    whole = place.get(file)
    # Chunk 2 is the first of its shard: its bytes, and those of the index.
    inside = [*range(0, 292, 13), *range(len(whole) - 36, len(whole), 5)]
    for position in inside if layout is SHARDED else range(0, len(whole), 7):
        altered = bytearray(whole)
        altered[position] ^= 1
        place.put(file, altered)
        for read in reads_of_chunk_2(Store.open(url))[:2]:
            with pytest.raises(
                StoreError, match=rf"{message}: .* fit .* checksum; run"
            ):
                read()


@pytest.mark.parametrize("layout", DAMAGED, ids=identify)
def test_chunk_cut_short_anywhere_is_an_error(place, layout):
    url = stores.make(place, layout)
    file, message = chunk_file(layout)
    whole = place.get(file)
    for length in range(0, len(whole), 41):
        place.put(file, whole)
        store = Store.open(url)
        place.put(file, whole[:length])
        for read in reads_of_chunk_2(store):
            with pytest.raises(StoreError, match=message):
                read()
        with pytest.raises(StoreError, match=message):
            store.open_chunk(HOOK, 2, check=layout is not RAW)
        with pytest.raises(ArtifactError, match="the manifest says"):
            Store.open(url)


@pytest.mark.parametrize("name", ["mask", "document", f"{HOOK}/norm", f"{HOOK}/scale"])
def test_damage_of_another_array_names_it(tmp_path, name):
    place = open_place(tmp_path)
    layout = stores.layout("int8")
    writer = stores.open_writer(place, layout)
    store = Store.open(stores.make(place, layout))
    file = f"train.zarr/{name}/c/1" + ("/0" if name == "document" else "")
    place.put(file, b"x" + place.get(file)[1:])
    read = {
        "mask": lambda: store.mask(0, store.num_tokens),
        "document": lambda: store.documents(1),
        f"{HOOK}/norm": lambda: writer.read_norm(HOOK, 1),
        f"{HOOK}/scale": lambda: store.read(HOOK, 12, 13),
    }[name]
    with pytest.raises(StoreError, match=rf"{file}: chunk 1 of {name} cannot be read"):
        read()


def test_rows_beyond_the_end_are_an_error(tmp_path):
    store = Store.open(stores.make(open_place(tmp_path), RAW))
    for start, stop in [(0, 41), (-1, 3), (5, 4), (41, 42)]:
        with pytest.raises(StoreError, match=r"has no rows .* to .*; it holds 40"):
            store.read(HOOK, start, stop)


def test_unknown_hook_names_those_there_are(tmp_path):
    store = Store.open(stores.make(open_place(tmp_path), RAW))
    for read in (
        lambda: store.read("foo", 0, 1),
        lambda: store.open_chunk("foo", 0, check=True),
        lambda: store.statistics("foo"),
        lambda: store.mean("foo"),
        lambda: store.d_in("foo"),
        lambda: store.dtype("foo"),
    ):
        with pytest.raises(
            StoreError, match=f"no hook 'foo'; it holds {HOOK}, {OTHER}"
        ):
            read()


def test_unfinished_store_is_refused(place):
    stores.open_writer(place, RAW)
    with pytest.raises(StoreError, match="no finished store; run the harvest stage"):
        Store.open(f"{place.url}/train.zarr")


def test_other_folder_of_the_artifact_is_refused(place):
    stores.make(place, RAW)
    with pytest.raises(StoreError, match=r"not in the manifest beside it; name train"):
        Store.open(f"{place.url}/eval.zarr")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "found format version 99; this version reads 2; update Tri"),
        ({"version": 1}, "found format version 1; this version reads 2; run the harv"),
        ({"format": "x"}, "is a Zarr group, but not an activation store"),
    ],
)
def test_store_of_another_version_or_kind_is_refused(place, change, message):
    url = stores.make(place, RAW)
    name = "train.zarr/zarr.json"
    found = json.loads(place.get(name))
    found["attributes"] |= change
    place.put(name, json.dumps(found).encode())
    place.delete(artifacts.MANIFEST)
    stores.commit(place, stores.as_files(stores.contents(place)))
    with pytest.raises(StoreError, match=message):
        Store.open(url)


@pytest.mark.parametrize("node", ["", f"{HOOK}/", f"{HOOK}/activations/", "mask/"])
def test_altered_metadata_is_refused(place, node):
    url = stores.make(place, RAW)
    name = f"train.zarr/{node}zarr.json"
    place.put(name, place.get(name).replace(b"3", b"4", 1))
    with pytest.raises(StoreError, match=rf"{name}: its bytes have changed; delete"):
        Store.open(url)


def test_repr_tells_place_size_and_hooks(tmp_path):
    url = stores.make(open_place(tmp_path), RAW)
    assert repr(Store.open(url)) == (
        f"Store({url!r}, 40 tokens, hooks=['{HOOK}', '{OTHER}'])"
    )
