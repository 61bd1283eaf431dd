"""Stores of random activations, finished and committed, for benchmarks to read."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from storage import artifacts
from storage.places import LocalPlace
from storage.store import Store
from storage.store_writer import (
    ChunkData,
    HookChunk,
    Layout,
    StoreWriter,
    forget_commits,
)

HOOK = "blocks.3.hook_resid_post"
CTX = 128
CHUNK_ROWS = 4096
_SPLIT = "train"


class Shape(NamedTuple):
    """What a store holds."""

    dtype: str
    d_in: int
    num_chunks: int

    @property
    def row_bytes(self) -> int:
        """Return the bytes of a row."""
        return self.d_in * torch_dtype(self.dtype).itemsize


def make(folder: Path, shape: Shape) -> Store:
    """Write a store of `CHUNK_ROWS` rows a chunk, position 0 masked; return it open."""
    chunk_seqs = CHUNK_ROWS // CTX
    folder.mkdir(parents=True)
    layout = Layout(
        ctx=CTX,
        widths={HOOK: shape.d_in},
        dtype=shape.dtype,
        chunk_bytes=CHUNK_ROWS * shape.row_bytes,
        codec="none",
        shard_chunks=None,
        provenance={},
    )
    place = LocalPlace(folder)
    num_seqs = shape.num_chunks * chunk_seqs
    writer = StoreWriter(place, _SPLIT, layout, num_seqs=num_seqs)
    for part in range(writer.num_parts):
        writer.write_part(part, [_chunk(shape, part)])
    mask = np.zeros((chunk_seqs, CTX), np.uint8)
    mask[:, 0] = 1
    known = writer.finish(
        lambda chunk: mask.reshape(-1),
        {HOOK: {"mean": np.zeros(shape.d_in), "variance": np.ones(shape.d_in)}},
        {HOOK: {"mean_squared_norm": float(shape.d_in)}},
    )
    forget_commits(place)
    artifacts.commit(
        place,
        folder,
        stage="harvest",
        key="random",
        version=1,
        config={},
        parents={},
        known=known,
    )
    return Store.open(folder / f"{_SPLIT}.zarr")


def chunk_files(store: Store) -> list[Path]:
    """Return the files of a store's activations."""
    return sorted(Path(store.url, HOOK, "activations", "c").glob("*/0"))


def torch_dtype(name: str) -> torch.dtype:
    """Return torch's dtype of a name."""
    found: torch.dtype = getattr(torch, name)
    return found


def _chunk(shape: Shape, index: int) -> ChunkData:
    seqs = CHUNK_ROWS // CTX
    generator = torch.Generator().manual_seed(index)
    x = torch.randn(CHUNK_ROWS, shape.d_in, generator=generator)
    stored = x.to(torch_dtype(shape.dtype))
    bits = stored.view(torch.uint16) if shape.dtype == "bfloat16" else stored
    documents = np.arange(index * seqs, (index + 1) * seqs, dtype=np.int64)
    return ChunkData(
        tokens=np.zeros((seqs, CTX), np.int32),
        document=np.repeat(documents[:, None], CTX, axis=1),
        hooks={HOOK: HookChunk(bits.numpy(), stored.float().norm(dim=1).numpy(), None)},
        statistics={},
    )
