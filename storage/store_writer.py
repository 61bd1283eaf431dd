"""Write an activation store part by part, so that a kill loses only parts under way."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

from storage import durable, layout, provenance, transfer
from storage.artifacts import MANIFEST, ArtifactError, File
from storage.chunk_reader import ChunkReader
from storage.commits import Commits, Record, forget_commits
from storage.encoding import encode_chunk, encode_shard
from storage.layout import METADATA, Grid, Layout, StoredArray
from storage.places import Place

__all__ = [
    "ChunkData",
    "HookChunk",
    "Layout",
    "StoreWriter",
    "forget_commits",
    "has_begun",
]

# How many small files go to the disk together.
_BATCH = 64

_log = logging.getLogger(__name__)


class HookChunk(NamedTuple):
    """One chunk of one hook as it is stored."""

    values: npt.NDArray[Any]
    """`[rows, d_in]` in the stored dtype (bfloat16 as uint16)."""
    norm: npt.NDArray[np.float32]
    """Euclidean norm of each row as stored, `[rows]`."""
    scale: npt.NDArray[np.float32] | None
    """What each row of int8 is to be multiplied by, `[rows]`; None for other dtypes."""


class ChunkData(NamedTuple):
    """One chunk of every array, with what shall be known of it later."""

    tokens: npt.NDArray[np.int32]
    """`[seqs, ctx]`."""
    document: npt.NDArray[np.int64]
    """`[seqs, ctx]`."""
    hooks: Mapping[str, HookChunk]
    statistics: Any
    """Any JSON; `StoreWriter.read_statistics` gives it back."""


class StoreWriter:
    """A store in the making: `write_part` for each missing part, then `finish`.

    Several writers, in threads, processes or on other machines, may write parts of
    one store; a part that two of them write ends in the same bytes. `forget_commits`
    comes after the artifact's commit: a kill before that loses nothing.
    """

    def __init__(
        self, place: Place, split: str, layout: Layout, *, num_seqs: int
    ) -> None:
        """Open `<split>.zarr`, keeping what was committed if its layout is the same.

        Work of another layout is dropped from a folder, where one writer has to open
        before all others. In a bucket, where others may be at it, it is refused.

        Args:
            place: the harvest stage's artifact; commit records lie there too.
            split: train or eval.
            layout: dtype, chunks and provenance.
            num_seqs: sequences of the split.

        Raises:
            ArtifactError: the artifact is committed, or a bucket has unfinished work
                of another layout.
        """
        assert num_seqs > 0
        self.layout = layout
        self._place = place
        self._root = _root(split)
        self._grid = Grid.of(layout, num_seqs)
        self._commits = Commits(place, split, self._grid)
        self._reader = ChunkReader(place.child(self._root), self._grid)
        self._open()

    @property
    def num_chunks(self) -> int:
        """Return the number of chunks of each hook."""
        return self._grid.num_chunks

    @property
    def num_parts(self) -> int:
        """Return the number of parts; each is committed at once."""
        return self._grid.num_parts

    def chunks_of(self, part: int) -> range:
        """Return the chunks of a part."""
        return self._grid.chunks_of(part)

    def sequences(self, chunk: int) -> slice:
        """Return which sequences a chunk holds."""
        return self._grid.sequences(chunk)

    def part_sequences(self, part: int) -> slice:
        """Return which sequences a part holds."""
        chunks = self.chunks_of(part)
        return slice(self.sequences(chunks[0]).start, self.sequences(chunks[-1]).stop)

    def rows(self, chunk: int) -> slice:
        """Return which rows a chunk holds."""
        return self._grid.rows(chunk)

    def missing(self) -> list[int]:
        """Return the parts that are still to be written, in order.

        A part is there if its record is, and its files with the sizes recorded.
        """
        done = {record.part for record in self._commits.read()}
        return [part for part in range(self.num_parts) if part not in done]

    def num_committed_rows(self) -> int:
        """Return how many rows have a commit record, without looking at their files."""
        rows = 0
        for part in self._commits.names():
            sequences = self.part_sequences(part)
            rows += (sequences.stop - sequences.start) * self.layout.ctx
        return rows

    def write_part(self, part: int, chunks: Sequence[ChunkData]) -> None:
        """Write the files of a part, wait until they are safe, then commit it.

        May be called by several threads, for different parts. Arrays are not copied.

        Raises:
            ArtifactError: a bucket has the part already, with other bytes.
        """
        assert len(chunks) == len(self.chunks_of(part))
        arrays = [_arrays_of(chunk) for chunk in chunks]
        objects = {
            self._name(array.file(part)): _encode(
                array, [found[array.name] for found in arrays]
            )
            for array in self._grid.arrays()
        }
        record = Record(
            part=part,
            chunks=(self.chunks_of(part).start, self.chunks_of(part).stop),
            rows=sum(chunk.tokens.size for chunk in chunks),
            files=self._put_all(objects),
            statistics=[chunk.statistics for chunk in chunks],
        )
        text = durable.canonical_json(record.model_dump())
        self._put(self._commits.name(part), text.encode())

    def read_statistics(self) -> Iterator[Any]:
        """Yield the statistics of every committed chunk, in the order of chunks."""
        for record in self._commits.read():
            yield from record.statistics

    def read_values(self, hook: str, chunk: int) -> npt.NDArray[Any]:
        """Return a committed chunk as it is stored, `[rows, d_in]`."""
        array = self._grid.array(f"{hook}/activations")
        return self._reader.open(array, chunk, check=True)

    def read_scale(self, hook: str, chunk: int) -> npt.NDArray[np.float32]:
        """Return the scales of a committed chunk of int8, `[rows]`."""
        return self._reader.read(self._grid.array(f"{hook}/scale"), chunk)

    def read_norm(self, hook: str, chunk: int) -> npt.NDArray[np.float32]:
        """Return the norms of a committed chunk, `[rows]`."""
        return self._reader.read(self._grid.array(f"{hook}/norm"), chunk)

    def read_tokens(self, chunk: int) -> npt.NDArray[np.int32]:
        """Return the tokens of a committed chunk, `[seqs, ctx]`."""
        return self._reader.read(self._grid.array("tokens"), chunk)

    def finish(
        self,
        masks: Callable[[int], npt.NDArray[np.uint8]],
        vectors: Mapping[str, Mapping[str, npt.NDArray[np.float64]]],
        statistics: Mapping[str, Mapping[str, Any]],
    ) -> dict[str, File]:
        """Write what is known only at the end; return every file of the split.

        Their hashes are those of the bytes as written; nothing is read again. May be
        repeated: the commit records stay until `forget_commits`.

        Args:
            masks: gives the mask `[rows]` of a chunk; asked once for each, in order.
            vectors: for each hook, arrays `[d_in]` such as the mean.
            statistics: for each hook, scalars that go into its attributes.

        Raises:
            ArtifactError: a part is missing, another run has committed the artifact,
                or a bucket has a file already, with other bytes.
        """
        files: dict[str, File] = {}
        num_found = 0
        for record in self._commits.read():
            files |= record.files
            num_found += 1
        if num_found < self.num_parts:
            self._check_uncommitted()
            raise ArtifactError(
                f"{self._place.url}/{self._root}: {self.num_parts - num_found} of "
                f"{self.num_parts} parts are not there; run the stage again"
            )
        files |= self._put_masks(masks)
        last = {
            f"{hook}/{name}": values
            for hook, arrays in vectors.items()
            for name, values in arrays.items()
        }
        objects: dict[str, list[Buffer]] = {}
        for name, values in last.items():
            array = layout.whole(name, np.dtype("<f8"), len(values))
            objects[self._name(array.file(0))] = _encode(array, [values])
        hooks = {hook: {"statistics": dict(statistics[hook])} for hook in vectors}
        lengths = {name: len(values) for name, values in last.items()}
        for name, data in self._metadata(hooks, lengths).items():
            objects[self._name(name)] = [data]
        return files | self._put_all(objects)

    def _open(self) -> None:
        """Write the group's `zarr.json`, which tells the layout; all others at the end.

        There they have what is known only then, and are written once.
        """
        self._check_uncommitted()
        self._place.sweep(self._root)
        self._place.sweep(self._commits.folder)
        name, first = self._name(METADATA), self._metadata({}, {})[METADATA]
        try:
            found = self._place.get(name)
        except FileNotFoundError:
            self._put(name, first)
            return
        # Compared as attributes: another version of Zarr may write other bytes.
        change = provenance.first_difference(_attributes(first), _attributes(found))
        if change is not None:
            self._clear(change)
            self._put(name, first)

    def _check_uncommitted(self) -> None:
        if self._place.size(MANIFEST) is not None:
            raise ArtifactError(
                f"{self._place.url}: another run has committed this artifact; run again"
            )

    def _clear(self, change: provenance.Difference) -> None:
        """Remove the split; last what tells its layout, so that a kill is no harm."""
        where = f"{self._place.url}/{self._root}"
        begun = f"was begun with {change.leaf} {change.theirs}, found {change.mine} now"
        if self._place.path(METADATA) is None:
            raise ArtifactError(
                f"{where}: {begun}; delete {self._place.url}, or go on with the same "
                "libraries and settings"
            )
        _log.warning(
            "%s: %s; its %d committed parts are removed and made again",
            where,
            begun,
            len(self._place.list(self._commits.folder)),
        )
        for folder in (self._commits.folder, self._root):
            names = [entry.name for entry in self._place.list(folder)]
            self._place.delete(*(n for n in names if n != self._name(METADATA)))
        self._place.delete(self._name(METADATA))

    def _put_masks(
        self, masks: Callable[[int], npt.NDArray[np.uint8]]
    ) -> dict[str, File]:
        """Write the mask part by part, and how many rows of each chunk count."""
        mask, unmasked = self._grid.last_arrays()
        count = np.zeros(self.num_chunks, np.int64)
        files: dict[str, File] = {}
        objects: dict[str, list[Buffer]] = {}
        for part in range(self.num_parts):
            found = [masks(chunk) for chunk in self.chunks_of(part)]
            for chunk, values in zip(self.chunks_of(part), found, strict=True):
                assert len(values) == self.rows(chunk).stop - self.rows(chunk).start
                count[chunk] = np.count_nonzero(values == 0)
            objects[self._name(mask.file(part))] = _encode(mask, found)
            if len(objects) == _BATCH:
                files |= self._put_all(objects)
                objects = {}
        objects[self._name(unmasked.file(0))] = _encode(unmasked, [count])
        return files | self._put_all(objects)

    def _put_all(self, objects: Mapping[str, Sequence[Buffer]]) -> dict[str, File]:
        files = {name: _file(parts) for name, parts in objects.items()}
        if faults := transfer.add_all(self._place, objects, files):
            raise ArtifactError(faults[0])
        return files

    def _put(self, name: str, data: bytes) -> None:
        if fault := transfer.add(self._place, name, [data], _file([data])):
            raise ArtifactError(fault)

    def _metadata(
        self, hooks: Mapping[str, Mapping[str, Any]], vectors: Mapping[str, int]
    ) -> dict[str, bytes]:
        group = layout.attributes(self._grid, self.layout.provenance)
        return layout.metadata(self._grid, group, hooks, vectors)

    def _name(self, file: str) -> str:
        return f"{self._root}/{file}"


def has_begun(place: Place, split: str) -> bool:
    """Return whether some writer has opened a split there, without opening one."""
    return place.size(f"{_root(split)}/{METADATA}") is not None


def _root(split: str) -> str:
    return f"{split}.zarr"


def _arrays_of(chunk: ChunkData) -> dict[str, npt.NDArray[Any]]:
    """Return the values of a chunk by the names of their arrays."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "tokens": chunk.tokens,
        "document": chunk.document,
    }
    for hook, found in chunk.hooks.items():
        arrays[f"{hook}/activations"] = found.values
        arrays[f"{hook}/norm"] = found.norm
        if found.scale is not None:
            arrays[f"{hook}/scale"] = found.scale
    return arrays


def _encode(array: StoredArray, chunks: Sequence[npt.NDArray[Any]]) -> list[Buffer]:
    """Return the parts of the bytes of a file."""
    encoded = [encode_chunk(values, array.encoding) for values in chunks]
    if array.shard_chunks is None:
        (whole,) = encoded
        return whole
    return encode_shard(encoded, array.shard_chunks)


def _file(parts: Sequence[Buffer]) -> File:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    size = sum(memoryview(part).nbytes for part in parts)
    return File(bytes=size, sha256=digest.hexdigest())


def _attributes(data: bytes) -> dict[str, Any]:
    """Return the attributes in a `zarr.json`, none if it is not one."""
    try:
        return dict(json.loads(data)["attributes"])
    except (ValueError, KeyError, TypeError):
        return {}
