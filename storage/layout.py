"""What fixes the bytes of an activation store: its arrays, chunks, parts and names."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import zarr
import zarr.storage
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import Buffer as ZarrBuffer

from storage.encoding import Encoding

FORMAT = "trilemma-activations"
FORMAT_VERSION = 2
METADATA = "zarr.json"
_STORED: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "int8": np.dtype("i1"),
}
_SQUEEZED = "shuffle-zstd"


class Layout(NamedTuple):
    """Everything that fixes the bytes of a store but the sequences themselves."""

    ctx: int
    widths: dict[str, int]
    """d_in of each hook."""
    dtype: str
    """float32, float16, bfloat16 (kept as uint16) or int8 (with a scale per row)."""
    chunk_bytes: int
    codec: str
    """none or shuffle-zstd."""
    shard_chunks: int | None
    """Chunks that share a file, and are committed together; None for one each."""
    provenance: dict[str, Any]

    def chunk_seqs(self) -> int:
        """Return how many whole sequences fit a chunk, at least one."""
        widest = max(self.widths.values())
        row = self.ctx * widest * _STORED[self.dtype].itemsize
        return max(1, self.chunk_bytes // row)

    def store_bytes(self, num_seqs: int) -> int:
        """Return the bytes of a store of so many sequences, before compression.

        The last chunk of each array counts as a whole one, as it is stored.
        """
        chunks = Grid.of(self, num_seqs).num_chunks
        return self._array_bytes(chunks * self.chunk_seqs())

    def sequence_bytes(self) -> int:
        """Return the bytes that one sequence adds to a store, before compression."""
        return self._array_bytes(1)

    def _array_bytes(self, num_seqs: int) -> int:
        grid = Grid.of(self, num_seqs)
        arrays = grid.arrays() + grid.last_arrays()
        return sum(math.prod(a.shape) * a.encoding.dtype.itemsize for a in arrays)


class StoredArray(NamedTuple):
    """One array of a store."""

    name: str
    shape: tuple[int, ...]
    encoding: Encoding
    shard_chunks: int | None

    def file(self, part: int) -> str:
        """Return the name of the file that holds a part, below the store."""
        return "/".join([self.name, "c", str(part), *"0" * (len(self.shape) - 1)])


class Grid(NamedTuple):
    """How a split is cut: sequences into chunks, and chunks into parts.

    A part is what one file of an array holds, a shard or else a chunk.
    """

    ctx: int
    num_seqs: int
    chunk_seqs: int
    widths: dict[str, int]
    dtypes: dict[str, str]
    codec: str
    shard_chunks: int | None

    @classmethod
    def of(cls, layout: Layout, num_seqs: int) -> "Grid":
        """Return the grid of a layout."""
        return cls(
            ctx=layout.ctx,
            num_seqs=num_seqs,
            chunk_seqs=layout.chunk_seqs(),
            widths=layout.widths,
            dtypes=dict.fromkeys(layout.widths, layout.dtype),
            codec=layout.codec,
            shard_chunks=layout.shard_chunks,
        )

    @property
    def num_chunks(self) -> int:
        """Return the number of chunks of each hook."""
        return -(-self.num_seqs // self.chunk_seqs)

    @property
    def num_parts(self) -> int:
        """Return the number of parts of the split."""
        return -(-self.num_chunks // self.part_chunks)

    @property
    def part_chunks(self) -> int:
        """Return the chunks of a part; the last one may have fewer."""
        return self.shard_chunks or 1

    def chunks_of(self, part: int) -> range:
        """Return the chunks of a part."""
        first = part * self.part_chunks
        return range(first, min(first + self.part_chunks, self.num_chunks))

    def sequences(self, chunk: int) -> slice:
        """Return which sequences a chunk holds."""
        first = chunk * self.chunk_seqs
        return slice(first, min(first + self.chunk_seqs, self.num_seqs))

    def rows(self, chunk: int) -> slice:
        """Return which rows a chunk holds."""
        sequences = self.sequences(chunk)
        return slice(sequences.start * self.ctx, sequences.stop * self.ctx)

    def array(self, name: str) -> StoredArray:
        """Return the array of a name that is cut into chunks."""
        hook, _, last = name.rpartition("/")
        rows, chunk_rows = self.num_seqs * self.ctx, self.chunk_seqs * self.ctx
        if last == "activations":
            dtype, width = _STORED[self.dtypes[hook]], self.widths[hook]
            squeezed = self.codec == _SQUEEZED
            return self._cut(name, dtype, (rows, width), chunk_rows, squeezed)
        if last in ("norm", "scale"):
            return self._cut(name, np.dtype("<f4"), (rows,), chunk_rows)
        if name == "mask":
            return self._cut(name, np.dtype("u1"), (rows,), chunk_rows)
        dtype = np.dtype("<i4") if name == "tokens" else np.dtype("<i8")
        return self._cut(name, dtype, (self.num_seqs, self.ctx), self.chunk_seqs)

    def arrays(self) -> list[StoredArray]:
        """Return the arrays that are written part by part."""
        names = ["tokens", "document"]
        for hook, dtype in self.dtypes.items():
            names += [f"{hook}/activations", f"{hook}/norm"]
            names += [f"{hook}/scale"] if dtype == "int8" else []
        return [self.array(name) for name in names]

    def last_arrays(self) -> list[StoredArray]:
        """Return the arrays that are written when all parts are there."""
        count = whole("unmasked_rows", np.dtype("<i8"), self.num_chunks)
        return [self.array("mask"), count]

    def _cut(
        self,
        name: str,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        length: int,
        is_squeezed: bool = False,
    ) -> StoredArray:
        encoding = Encoding(dtype, (length, *shape[1:]), is_squeezed)
        return StoredArray(name, shape, encoding, self.shard_chunks)


def whole(name: str, dtype: np.dtype[Any], length: int) -> StoredArray:
    """Return a vector that is one chunk."""
    return StoredArray(name, (length,), Encoding(dtype, (length,), False), None)


def attributes(grid: Grid, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of the group, from which a reader knows the grid."""
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "ctx": grid.ctx,
        "num_seqs": grid.num_seqs,
        "chunk_seqs": grid.chunk_seqs,
        "shard_chunks": grid.shard_chunks,
        "codec": grid.codec,
        "hooks": grid.dtypes,
        "widths": grid.widths,
        "provenance": dict(provenance),
    }


def grid_of(found: Mapping[str, Any]) -> Grid:
    """Return the grid that a group's attributes tell."""
    return Grid(
        ctx=found["ctx"],
        num_seqs=found["num_seqs"],
        chunk_seqs=found["chunk_seqs"],
        widths=found["widths"],
        dtypes=found["hooks"],
        codec=found["codec"],
        shard_chunks=found["shard_chunks"],
    )


def metadata(
    grid: Grid,
    group: Mapping[str, Any],
    hooks: Mapping[str, Mapping[str, Any]],
    vectors: Mapping[str, int],
) -> dict[str, bytes]:
    """Return every `zarr.json` by its name, the group's own first, as Zarr writes them.

    Args:
        grid: of the split.
        group: attributes of the group.
        hooks: attributes of each hook.
        vectors: length of each float64 vector, by name.
    """
    made: dict[str, ZarrBuffer] = {}
    store = zarr.storage.MemoryStore(made)
    root = zarr.open_group(store, mode="w", zarr_format=3, attributes=dict(group))
    for hook, found in hooks.items():
        root.create_group(hook, attributes=dict(found))
    last = [whole(name, np.dtype("<f8"), length) for name, length in vectors.items()]
    for array in [*grid.arrays(), *grid.last_arrays(), *last]:
        _declare(root, array, grid)
    return {name: buffer.to_bytes() for name, buffer in made.items()}


def _declare(root: zarr.Group, array: StoredArray, grid: Grid) -> None:
    hook, _, last = array.name.rpartition("/")
    chunk = array.encoding.shape
    shard = (chunk[0] * (array.shard_chunks or 1), *chunk[1:])
    # Blosc with its byte shuffle is Zarr's own name for shuffle and zstd.
    squeeze = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle")
    root.create_array(
        array.name,
        shape=array.shape,
        chunks=chunk,
        shards=shard if array.shard_chunks else None,
        dtype=array.encoding.dtype,
        compressors=[*([squeeze] if array.encoding.is_squeezed else []), Crc32cCodec()],
        attributes={"dtype": grid.dtypes[hook]} if last == "activations" else {},
        config={"write_empty_chunks": True},
    )
