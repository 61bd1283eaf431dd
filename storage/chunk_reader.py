"""Read single chunks of a store; what is not as it was written is an error."""

import functools
import mmap
import os
from pathlib import Path
from typing import Any, NoReturn

import numpy.typing as npt

from storage import encoding
from storage.encoding import ChunkError, Span
from storage.layout import Grid, StoredArray
from storage.places import Place

_INDICES = 256  # of shards, that are kept in memory


class StoreError(ValueError):
    """A store that cannot be read as what it says it is."""


class ChunkReader:
    """The chunks of one store, by their array and number."""

    def __init__(self, place: Place, grid: Grid) -> None:
        """Prepare to read the store that lies at `place`; nothing is read yet."""
        self._place = place
        self._grid = grid
        self._index = functools.lru_cache(_INDICES)(self._read_index)

    def read(self, array: StoredArray, chunk: int) -> npt.NDArray[Any]:
        """Return the rows of a chunk as stored, checked, in memory and read-only.

        Raises:
            StoreError: the chunk is missing or has changed; names array and file.
        """
        file, span = self._locate(array, chunk)
        try:
            if span is None:
                data = self._place.get(file)
            else:
                data = self._place.get_range(file, span.start, span.length)
            values = encoding.decode_chunk(data, array.encoding, check=True)
        except (ChunkError, FileNotFoundError) as error:
            self._fail(array, chunk, error)
        return values[: self._length(array, chunk)]

    def open(self, array: StoredArray, chunk: int, *, check: bool) -> npt.NDArray[Any]:
        """Return the rows of a chunk as stored, mapped from the disk where it can be.

        That is a chunk that is not compressed, in a local file. Elsewhere it is read
        and always checked.

        Raises:
            StoreError: the chunk is missing or has changed; names array and file.
        """
        length = array.encoding.chunk_bytes
        file, span = self._locate(array, chunk)
        path = self._place.path(file)
        if path is None or length is None:
            return self.read(array, chunk)
        try:
            data = _map(path, span or Span(0, length), length)
            values = encoding.decode_chunk(data, array.encoding, check=check)
        except (ChunkError, FileNotFoundError, NotADirectoryError) as error:
            self._fail(array, chunk, error)
        return values[: self._length(array, chunk)]

    def _locate(self, array: StoredArray, chunk: int) -> tuple[str, Span | None]:
        """Return the file of a chunk, and where in it; None for the whole file."""
        part, slot = divmod(chunk, self._grid.part_chunks)
        file = array.file(part)
        if array.shard_chunks is None:
            return file, None
        try:
            span = self._index(file, array.shard_chunks)[slot]
            if span is None:
                raise ChunkError("the shard does not hold it")
        except (ChunkError, FileNotFoundError) as error:
            self._fail(array, chunk, error)
        return file, span

    def _read_index(self, file: str, slots: int) -> list[Span | None]:
        length = encoding.index_bytes(slots)
        size = self._place.size(file)
        if size is None:
            raise FileNotFoundError(file)
        data = self._place.get_range(file, max(0, size - length), length)
        return encoding.decode_index(data, slots)

    def _length(self, array: StoredArray, chunk: int) -> int:
        first = chunk * array.encoding.shape[0]
        return min(array.encoding.shape[0], array.shape[0] - first)

    def _fail(self, array: StoredArray, chunk: int, error: Exception) -> NoReturn:
        file = array.file(chunk // self._grid.part_chunks)
        what = "its file is missing"
        if isinstance(error, ChunkError):
            what = str(error)
        raise StoreError(
            f"{self._place.url}/{file}: chunk {chunk} of "
            f"{array.name.removesuffix('/activations')} cannot be read: {what}; run "
            "verify, then delete the artifact and run the stage again"
        ) from error


def _map(path: Path, span: Span, length: int) -> memoryview:
    """Return a chunk's bytes where they lie; NumPy's own map costs five times as much.

    Raises:
        ChunkError: the file does not hold so many bytes there.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        # Touching a page behind the end of a mapped file would end the process.
        if span.length != length or span.start + length > size:
            raise ChunkError(f"found {size} bytes, {span.start + length} needed")
        before = span.start % mmap.ALLOCATIONGRANULARITY
        pages = mmap.mmap(
            descriptor,
            before + length,
            access=mmap.ACCESS_READ,
            offset=span.start - before,
        )
    finally:
        os.close(descriptor)
    return memoryview(pages)[before:]
