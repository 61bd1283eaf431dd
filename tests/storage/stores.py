"""Small stores for tests, whose chunks are a pure function of their number."""

import hashlib

import numpy as np
import torch

from storage import artifacts
from storage.store_writer import (
    ChunkData,
    HookChunk,
    Layout,
    StoreWriter,
    forget_commits,
)

CTX, NUM_SEQS = 4, 10
HOOK, OTHER = "blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"
WIDTHS = {HOOK: 6, OTHER: 3}
DTYPES = ["float32", "float16", "bfloat16", "int8"]
_ITEM = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


def layout(
    dtype="float32", codec="none", shard_chunks=None, *, chunk_seqs=3, widths=WIDTHS
):
    row = max(widths.values()) * _ITEM[dtype]
    return Layout(
        ctx=CTX,
        widths=dict(widths),
        dtype=dtype,
        chunk_bytes=chunk_seqs * CTX * row + 1,
        codec=codec,
        shard_chunks=shard_chunks,
        provenance={"lm": "x", "ratio": 0.5},
    )


def x_of(hook, width, num_seqs=NUM_SEQS):
    """Return the activations of a split before they are stored, `[rows, width]`."""
    generator = torch.Generator().manual_seed(len(hook))
    return torch.randn(num_seqs * CTX, width, generator=generator)


def hook_chunk(x, dtype):
    if dtype == "int8":
        largest = x.abs().amax(1)
        scale = torch.where(largest > 0, largest / 127, torch.ones_like(largest))
        values = (x / scale[:, None]).round().to(torch.int8)
        norm = (values * scale[:, None]).norm(dim=1)
        return HookChunk(values.numpy(), norm.numpy(), scale.numpy())
    stored = x.to(getattr(torch, dtype))
    norm = stored.float().norm(dim=1).numpy()
    is_bits = stored.dtype == torch.bfloat16
    values = stored.view(torch.uint16) if is_bits else stored
    return HookChunk(values.numpy(), norm, None)


def chunk_data(writer, chunk, num_seqs=NUM_SEQS):
    sequences, rows = writer.sequences(chunk), writer.rows(chunk)
    tokens = np.arange(num_seqs * CTX, dtype=np.int32).reshape(-1, CTX)
    document = np.arange(num_seqs, dtype=np.int64).repeat(CTX).reshape(-1, CTX)
    hooks = {
        hook: hook_chunk(x_of(hook, width, num_seqs)[rows], writer.layout.dtype)
        for hook, width in writer.layout.widths.items()
    }
    return ChunkData(
        tokens[sequences], document[sequences], hooks, {"chunk": chunk, "mean": 0.1}
    )


def open_writer(place, layout, num_seqs=NUM_SEQS):
    return StoreWriter(place, "train", layout, num_seqs=num_seqs)


def write_part(writer, part, num_seqs=NUM_SEQS):
    chunks = writer.chunks_of(part)
    writer.write_part(part, [chunk_data(writer, chunk, num_seqs) for chunk in chunks])


def mask_of(writer, chunk):
    rows = writer.rows(chunk)
    mask = np.zeros(rows.stop - rows.start, np.uint8)
    mask[::CTX] = 2
    return mask


def finish(writer):
    widths = writer.layout.widths
    return writer.finish(
        lambda chunk: mask_of(writer, chunk),
        {
            h: {"mean": np.arange(w) / 2, "variance": np.ones(w)}
            for h, w in widths.items()
        },
        {hook: {"count": 30, "mean_squared_norm": 1.0} for hook in widths},
    )


def commit(place, known):
    """Commit an artifact of these files alone, as the stage does at its end."""
    manifest = artifacts.Manifest(
        stage="harvest",
        key="0" * 16,
        version=1,
        config={},
        parents={},
        files=known,
        digest=artifacts.digest_of(known),
    )
    assert place.create(artifacts.MANIFEST, manifest.model_dump_json().encode())
    forget_commits(place)


def make(place, layout, num_seqs=NUM_SEQS):
    """Write and commit a whole store, and return the URL of its split."""
    writer = open_writer(place, layout, num_seqs)
    for part in writer.missing():
        write_part(writer, part, num_seqs)
    commit(place, finish(writer))
    return f"{place.url}/train.zarr"


def contents(place):
    """Return every object of a place with its bytes."""
    return {entry.name: place.get(entry.name) for entry in place.list("")}


def as_files(found):
    return {
        name: artifacts.File(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in found.items()
    }


class BrokenError(Exception):
    """What a `Failing` place raises."""


class Failing:
    """A place whose n-th put fails, as if its process had been killed there."""

    def __init__(self, place, puts):
        self._place = place
        self._left = puts

    def put(self, name, *parts):
        self._count(name)
        self._place.put(name, *parts)

    def create(self, name, *parts):
        self._count(name)
        return self._place.create(name, *parts)

    def _count(self, name):
        self._left -= 1
        if self._left < 0:
            raise BrokenError(name)

    def put_all(self, objects):
        for name, parts in objects.items():
            self.put(name, *parts)

    def __getattr__(self, name):
        return getattr(self._place, name)
