"""The store: what is written reads back; damage is an error and never zeros."""

import json

import numpy as np
import pytest
import torch
import zarr

from storage import artifacts
from storage.artifacts import ArtifactError
from storage.store import Store, StoreError
from storage.store_writer import HookChunk, Layout, StoreWriter, forget_commits
from trilemma.harvest import NonFiniteError, RowError, to_store

CTX, D_IN, NUM_SEQS = 4, 6, 10
HOOK = "blocks.0.hook_resid_post"
CHUNK = f"train.zarr/{HOOK}/activations/c/1/0"


def layout(dtype="float32", codec="none", hook=HOOK):
    row = CTX * D_IN * {"float32": 4, "float16": 2, "bfloat16": 2}[dtype]
    return Layout(
        ctx=CTX,
        widths={hook: D_IN},
        dtype=dtype,
        chunk_bytes=3 * row + 1,
        codec=codec,
        provenance={"lm": "x", "ratio": 0.5},
    )


def values(dtype, seed=0):
    x = torch.randn(NUM_SEQS * CTX, D_IN, generator=torch.Generator().manual_seed(seed))
    return x.to(getattr(torch, dtype))


def as_stored(x):
    return x.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else x.numpy()


def writer(folder, layout):
    return StoreWriter(
        folder,
        "train",
        layout,
        tokens=np.arange(NUM_SEQS * CTX, dtype=np.int32).reshape(NUM_SEQS, CTX),
        document=np.arange(NUM_SEQS, dtype=np.int64).repeat(CTX).reshape(-1, CTX),
        mask=np.tile(np.array([2, 0, 0, 0], np.uint8), NUM_SEQS),
    )


def write(open_writer, x, index, hook=HOOK):
    rows = open_writer.rows(index)
    part = x[rows]
    norm = part.float().norm(dim=1).numpy()
    open_writer.write_chunk(index, {hook: HookChunk(as_stored(part), norm)})


def finish_split(open_writer):
    return open_writer.finish(
        open_writer.first_mask,
        {HOOK: {"mean": np.zeros(D_IN), "variance": np.ones(D_IN)}},
        {HOOK: {"count": 30, "mean_squared_norm": 1.0}},
    )


def finish(folder, open_writer):
    known = finish_split(open_writer)
    forget_commits(folder)
    return artifacts.commit(
        folder,
        stage="harvest",
        key=folder.name,
        version=1,
        config={},
        parents={},
        known=known,
    )


def make(folder, dtype="float32", codec="none"):
    folder.mkdir()
    x = values(dtype)
    open_writer = writer(folder, layout(dtype, codec))
    for index in open_writer.missing():
        write(open_writer, x, index)
    finish(folder, open_writer)
    return x


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("codec", ["none", "shuffle-zstd"])
def test_what_was_written_reads_back_bit_for_bit(tmp_path, dtype, codec):
    x = make(tmp_path / "a", dtype, codec)
    store = Store.open(tmp_path / "a" / "train.zarr")
    assert store.read(HOOK, 0, store.num_tokens).dtype == x.dtype
    assert torch.equal(store.read(HOOK, 0, store.num_tokens), x)


def test_store_opens_with_plain_zarr(tmp_path):
    x = make(tmp_path / "a", "bfloat16")
    group = zarr.open_group(tmp_path / "a" / "train.zarr", mode="r")
    raw = torch.from_numpy(np.asarray(group[f"{HOOK}/activations"][:]))
    assert torch.equal(raw.view(torch.bfloat16), x)
    assert group[f"{HOOK}/activations"].attrs["dtype"] == "bfloat16"


def test_sequences_give_every_row_once_in_stored_order(tmp_path):
    x = make(tmp_path / "a")
    store = Store.open(tmp_path / "a" / "train.zarr")
    batches = list(store.sequences(HOOK, 2, limit=None))
    assert torch.equal(torch.cat([b.x for b in batches]).view(-1, D_IN), x)
    assert torch.equal(
        torch.cat([b.tokens for b in batches]).view(-1), torch.arange(NUM_SEQS * CTX)
    )


def test_sequences_stop_at_the_limit(tmp_path):
    make(tmp_path / "a")
    store = Store.open(tmp_path / "a" / "train.zarr")
    assert sum(len(b.tokens) for b in store.sequences(HOOK, 2, limit=5)) == 5


def test_chunk_leaves_out_masked_rows(tmp_path):
    x = make(tmp_path / "a")
    store = Store.open(tmp_path / "a" / "train.zarr")
    kept = torch.cat([store.chunk(HOOK, i) for i in range(store.num_chunks)])
    assert torch.equal(kept, x.view(NUM_SEQS, CTX, D_IN)[:, 1:].reshape(-1, D_IN))
    assert store.unmasked_rows().sum() == len(kept)


@pytest.mark.parametrize("keep", [0, 1, 2, 3, 4])
def test_interrupted_store_ends_in_the_same_bytes(tmp_path, keep):
    make(tmp_path / "whole")
    folder = tmp_path / "resumed"
    folder.mkdir()
    x = values("float32")
    first = writer(folder, layout())
    for index in first.missing()[:keep]:
        write(first, x, index)
    log = folder / "train.commits.jsonl"
    if keep:
        log.write_text(log.read_text() + '{"chunk": 3, "ro')  # a line cut by a kill
    second = writer(folder, layout())
    assert second.missing() == [0, 1, 2, 3][keep:]
    for index in second.missing():
        write(second, x, index)
    resumed = finish(folder, second)
    assert resumed.digest == artifacts.read_manifest(tmp_path / "whole").digest


def half_done(folder):
    """Return the folder of a store whose first two chunks are committed."""
    folder.mkdir()
    first = writer(folder, layout())
    for index in first.missing()[:2]:
        write(first, values("float32"), index)
    return folder


def whole_digest(folder):
    make(folder)
    return artifacts.read_manifest(folder).digest


def test_finished_split_misses_no_chunk_when_opened_again(tmp_path):
    folder = half_done(tmp_path / "a")
    first = writer(folder, layout())
    for index in first.missing():
        write(first, values("float32"), index)
    finish_split(first)
    second = writer(folder, layout())
    assert second.missing() == []
    assert finish(folder, second).digest == whole_digest(tmp_path / "b")
    forget_commits(folder)
    assert not list(folder.glob("*.jsonl"))


def lose(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [lose, cut])
def test_committed_chunk_that_is_not_whole_is_written_again(tmp_path, damage):
    folder = half_done(tmp_path / "a")
    damage(folder / CHUNK)
    again = writer(folder, layout())
    assert again.missing() == [1, 2, 3]
    assert '"chunk":1' not in (folder / "train.commits.jsonl").read_text()
    for index in again.missing():
        write(again, values("float32"), index)
    assert finish(folder, again).digest == whole_digest(tmp_path / "b")


def test_chunk_that_is_lost_before_the_commit_is_an_error(tmp_path):
    folder = half_done(tmp_path / "a")
    again = writer(folder, layout())
    for index in again.missing():
        write(again, values("float32"), index)
    (folder / CHUNK).unlink()
    with pytest.raises(ArtifactError, match=r"c/1/0: missing, although .* written"):
        finish(folder, again)
    assert artifacts.read_manifest(folder) is None


def test_leftover_of_a_write_cut_by_a_kill_is_no_part_of_the_store(tmp_path):
    folder = half_done(tmp_path / "a")
    (folder / CHUNK).with_suffix(".0a1b.partial").write_text("half")
    again = writer(folder, layout())
    for index in again.missing():
        write(again, values("float32"), index)
    assert finish(folder, again).digest == whole_digest(tmp_path / "b")


def test_line_separator_inside_a_name_does_not_split_the_log(tmp_path):
    odd = "a\u2028b"
    first = writer(tmp_path, layout(hook=odd))
    write(first, values("float32"), 0, odd)
    assert writer(tmp_path, layout(hook=odd)).missing() == first.missing() == [1, 2, 3]


def test_row_that_cannot_be_stored_is_named_by_its_place_in_the_split():
    x = torch.zeros(3, D_IN)
    x[2] = 70_000
    with pytest.raises(RowError) as caught:
        to_store(x, "float16")
    infinite = NonFiniteError(HOOK, 2)
    for error in (caught.value, infinite):
        error.locate("eval", 1000)
    assert str(caught.value) == (
        "store.dtype: float16 cannot hold the 70,000 in row 1,002 of eval; use "
        "bfloat16 or float32"
    )
    assert str(infinite) == (
        "harvest: blocks.0.hook_resid_post is not finite at row 1,002 of eval; run the "
        "LM in another dtype (harvest.lm_dtype)"
    )


def test_other_layout_starts_afresh(tmp_path):
    first = writer(tmp_path, layout())
    write(first, values("float32"), 0)
    assert len(writer(tmp_path, layout("float16")).missing()) == first.num_chunks


def test_unfinished_store_is_refused(tmp_path):
    writer(tmp_path, layout())
    with pytest.raises(StoreError, match="no finished store; run the harvest stage"):
        Store.open(tmp_path / "train.zarr")


def test_missing_chunk_is_an_error_and_never_zeros(tmp_path):
    make(tmp_path / "a")
    (tmp_path / "a" / "train.zarr" / HOOK / "activations" / "c" / "1" / "0").unlink()
    with pytest.raises(ArtifactError, match=r"activations/c/1/0: missing"):
        Store.open(tmp_path / "a" / "train.zarr")


def test_flipped_bit_is_an_error(tmp_path):
    make(tmp_path / "a")
    path = tmp_path / "a" / "train.zarr" / HOOK / "activations" / "c" / "0" / "0"
    data = bytearray(path.read_bytes())
    data[7] ^= 4
    path.write_bytes(data)
    store = Store.open(tmp_path / "a" / "train.zarr")
    with pytest.raises(ValueError, match="checksum"):
        store.read(HOOK, 0, 4)


def test_manifest_that_does_not_match_is_refused(tmp_path):
    make(tmp_path / "a")
    path = tmp_path / "a" / artifacts.MANIFEST
    manifest = json.loads(path.read_text())
    manifest["files"]["train.zarr/mask/c/0"]["bytes"] += 1
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="the manifest says"):
        Store.open(tmp_path / "a" / "train.zarr")


def test_unknown_hook_names_those_there_are(tmp_path):
    make(tmp_path / "a")
    store = Store.open(tmp_path / "a" / "train.zarr")
    with pytest.raises(StoreError, match=f"has no hook 'foo'; it holds {HOOK}"):
        store.read("foo", 0, 1)


def test_repr_tells_place_size_and_hooks(tmp_path):
    make(tmp_path / "a")
    assert "40 tokens" in repr(Store.open(tmp_path / "a" / "train.zarr"))
