"""Chunks and shards of Zarr v3 as bytes: what its own codecs would write, no copies."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import google_crc32c
import numcodecs.blosc
import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

CRC_BYTES = 4
_INDEX_ITEM = np.dtype("<u8")
_ABSENT = np.iinfo(np.uint64).max


class ChunkError(ValueError):
    """Bytes that are no whole chunk; the message says what is wrong with them."""


class Span(NamedTuple):
    """Where a chunk lies in its file."""

    start: int
    length: int


class Encoding(NamedTuple):
    """How the chunks of one array are laid out in bytes."""

    dtype: np.dtype[Any]
    """Little-endian."""
    shape: tuple[int, ...]
    """Of a chunk; a last chunk with fewer rows is filled up with zeros."""
    is_squeezed: bool
    """Bytes shuffled and compressed: Blosc with zstd, as Zarr's `BloscCodec`."""

    @property
    def chunk_bytes(self) -> int | None:
        """Return the bytes of an encoded chunk; None if that depends on its values."""
        if self.is_squeezed:
            return None
        return math.prod(self.shape) * self.dtype.itemsize + CRC_BYTES


def encode_chunk(values: npt.NDArray[Any], encoding: Encoding) -> list[Buffer]:
    """Return the parts of a chunk's bytes, the last of which is its CRC-32C.

    Raw values are not copied: they must not change until the parts are written.
    """
    assert values.dtype == encoding.dtype, (values.dtype, encoding.dtype)
    assert values.shape[1:] == encoding.shape[1:], (values.shape, encoding.shape)
    body = [_flat(np.ascontiguousarray(values))]
    if lacking := encoding.shape[0] - len(values):
        row_bytes = math.prod(encoding.shape[1:]) * encoding.dtype.itemsize
        body.append(np.zeros(lacking * row_bytes, np.uint8))
    if encoding.is_squeezed:
        whole = body[0] if len(body) == 1 else np.concatenate(body)
        body = [_flat(_blosc(encoding).encode(whole))]
    return [*(part.data for part in body), _crc32c(body)]


def encode_shard(chunks: Sequence[Sequence[Buffer]], slots: int) -> list[Buffer]:
    """Return the parts of a shard: encoded chunks, then its index.

    Args:
        chunks: the parts of each chunk, in order; a last shard may hold fewer.
        slots: chunks of a whole shard.
    """
    index = np.full((slots, 2), _ABSENT, _INDEX_ITEM)
    start = 0
    for slot, parts in enumerate(chunks):
        length = sum(memoryview(part).nbytes for part in parts)
        index[slot] = start, length
        start += length
    body = [_flat(index)]
    every = [part for parts in chunks for part in parts]
    return [*every, body[0].data, _crc32c(body)]


def decode_chunk(
    data: Buffer | npt.NDArray[np.uint8], encoding: Encoding, *, check: bool
) -> npt.NDArray[Any]:
    """Return the values of a chunk, padding included; raw ones share its memory.

    A mapped file stays one.

    Args:
        data: what `encode_chunk` made.
        encoding: as it was given there.
        check: whether to compare the CRC-32C; a squeezed chunk is always checked.

    Raises:
        ChunkError: the bytes are too few or too many, or have changed.
    """
    stored = _flat(data)
    expected = encoding.chunk_bytes
    if expected is not None and len(stored) != expected:
        raise ChunkError(f"found {len(stored)} bytes instead of {expected}")
    if len(stored) <= CRC_BYTES:
        raise ChunkError(f"found {len(stored)} bytes, too few for a checksum")
    body = stored[:-CRC_BYTES]
    if (check or encoding.is_squeezed) and _crc32c([body]) != bytes(
        stored[-CRC_BYTES:]
    ):
        raise ChunkError("its bytes do not fit their checksum")
    if encoding.is_squeezed:
        body = _flat(_blosc(encoding).decode(body))
    values: npt.NDArray[Any] = body.view(encoding.dtype).reshape(encoding.shape)
    return values


def index_bytes(slots: int) -> int:
    """Return the bytes of a shard's index, which are its last."""
    return slots * 2 * _INDEX_ITEM.itemsize + CRC_BYTES


def decode_index(data: Buffer, slots: int) -> list[Span | None]:
    """Return where each chunk of a shard lies, None for one that it lacks.

    Raises:
        ChunkError: the index is not whole, or has changed.
    """
    stored = _flat(data)
    if len(stored) != index_bytes(slots):
        raise ChunkError("the shard is cut short")
    body = stored[:-CRC_BYTES]
    if _crc32c([body]) != bytes(stored[-CRC_BYTES:]):
        raise ChunkError("the shard's index does not fit its checksum")
    pairs = body.view(_INDEX_ITEM).reshape(slots, 2).tolist()
    return [None if start == _ABSENT else Span(start, n) for start, n in pairs]


def _blosc(encoding: Encoding) -> Any:  # numcodecs is not typed
    # Zarr's BloscCodec(cname="zstd", clevel=1, shuffle="shuffle") of this dtype.
    return numcodecs.blosc.Blosc(
        cname="zstd",
        clevel=1,
        shuffle=numcodecs.blosc.SHUFFLE,
        typesize=encoding.dtype.itemsize,
    )


def _flat(values: Any) -> npt.NDArray[np.uint8]:
    """Return an array's, or a buffer's, memory as bytes."""
    if isinstance(values, np.ndarray):
        return values.reshape(-1).view(np.uint8)
    return np.frombuffer(memoryview(values), np.uint8)


def _crc32c(parts: Sequence[npt.NDArray[np.uint8]]) -> bytes:
    # Arrays go in without a copy, where a memoryview would be refused.
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return int(crc).to_bytes(CRC_BYTES, "little")
