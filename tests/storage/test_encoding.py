"""Encoding: our bytes are Zarr's own, and any change of them is found."""

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec

from storage import encoding
from storage.encoding import ChunkError, Encoding

DTYPES = ["<f4", "<f2", "<u2", "i1", "<i4", "<i8", "u1", "<f8"]


@st.composite
def arrays(draw):
    """Draw values with an encoding, and how many chunks share a file."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    rows, chunk_rows = draw(st.integers(1, 30)), draw(st.integers(1, 12))
    width = draw(st.sampled_from([(), (1,), (5,)]))
    seed = draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 100, (rows, *width)).astype(dtype)
    values[: draw(st.integers(0, rows))] = 0
    squeezed = draw(st.booleans())
    return values, Encoding(dtype, (chunk_rows, *width), squeezed)


def chunks_of(values, how):
    rows = how.shape[0]
    return [
        encoding.encode_chunk(values[first : first + rows], how)
        for first in range(0, len(values), rows)
    ]


def files_of(values, how, shard_chunks):
    """Return the files of an array as we write them, by Zarr's names."""
    chunks = chunks_of(values, how)
    if shard_chunks is not None:
        chunks = [
            encoding.encode_shard(chunks[first : first + shard_chunks], shard_chunks)
            for first in range(0, len(chunks), shard_chunks)
        ]
    zeros = "/0" * (values.ndim - 1)
    return {f"c/{i}{zeros}": b"".join(parts) for i, parts in enumerate(chunks)}


def declare(kept, values, how, shard_chunks):
    """Return a Zarr array of the same encoding, whose objects lie in `kept`."""
    squeeze = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle")
    shards = (how.shape[0] * (shard_chunks or 1), *how.shape[1:])
    return zarr.create_array(
        zarr.storage.MemoryStore(kept),
        shape=values.shape,
        dtype=values.dtype,
        chunks=how.shape,
        shards=shards if shard_chunks else None,
        compressors=[*([squeeze] if how.is_squeezed else []), Crc32cCodec()],
        config={"write_empty_chunks": True},
    )


@settings(deadline=None)
@given(arrays(), st.one_of(st.none(), st.integers(1, 4)))
def test_our_bytes_are_those_that_zarr_writes(drawn, shard_chunks):
    values, how = drawn
    kept = {}
    declare(kept, values, how, shard_chunks)[...] = values
    theirs = {n: b.to_bytes() for n, b in kept.items() if n.startswith("c/")}
    assert files_of(values, how, shard_chunks) == theirs


@settings(deadline=None)
@given(arrays(), st.one_of(st.none(), st.integers(1, 4)))
def test_zarr_reads_our_bytes(drawn, shard_chunks):
    values, how = drawn
    kept = {}
    array = declare(kept, values, how, shard_chunks)
    make = zarr.core.buffer.default_buffer_prototype().buffer.from_bytes
    kept.update({n: make(b) for n, b in files_of(values, how, shard_chunks).items()})
    assert np.array_equal(array[...], values)


@settings(deadline=None)
@given(arrays())
def test_chunk_comes_back_as_it_was_with_zeros_behind_it(drawn):
    values, how = drawn
    data = b"".join(encoding.encode_chunk(values[: how.shape[0]], how))
    found = encoding.decode_chunk(data, how, check=True)
    kept = min(len(values), how.shape[0])
    assert np.array_equal(found[:kept], values[:kept])
    assert not found[kept:].any()


@settings(deadline=None)
@given(arrays(), st.data())
def test_change_of_any_byte_of_a_chunk_is_found(drawn, data):
    values, how = drawn
    chunk = bytearray(b"".join(encoding.encode_chunk(values[: how.shape[0]], how)))
    position = data.draw(st.integers(0, len(chunk) - 1))
    chunk[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ChunkError, match=r"its bytes do not fit their checksum"):
        encoding.decode_chunk(bytes(chunk), how, check=True)


@settings(deadline=None)
@given(arrays(), st.data())
def test_chunk_cut_short_anywhere_is_found(drawn, data):
    values, how = drawn
    chunk = b"".join(encoding.encode_chunk(values[: how.shape[0]], how))
    length = data.draw(st.integers(0, len(chunk) - 1))
    with pytest.raises(ChunkError, match=r"instead of|too few|checksum"):
        encoding.decode_chunk(chunk[:length], how, check=True)


@settings(deadline=None)
@given(arrays(), st.integers(1, 4), st.data())
def test_change_of_any_byte_of_a_shard_is_found(drawn, slots, data):
    values, how = drawn
    chunks = chunks_of(values, how)[:slots]
    shard = bytearray(b"".join(encoding.encode_shard(chunks, slots)))
    position = data.draw(st.integers(0, len(shard) - 1))
    shard[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ChunkError, match=r"fit"):
        read_all(bytes(shard), how, slots)


@settings(deadline=None)
@given(arrays(), st.integers(1, 4), st.data())
def test_shard_cut_short_anywhere_is_found(drawn, slots, data):
    values, how = drawn
    shard = b"".join(encoding.encode_shard(chunks_of(values, how)[:slots], slots))
    length = data.draw(st.integers(0, len(shard) - 1))
    with pytest.raises(ChunkError, match=r"cut short|checksum"):
        read_all(shard[:length], how, slots)


def read_all(shard, how, slots):
    index = shard[-encoding.index_bytes(slots) :]
    for span in encoding.decode_index(index, slots):
        if span is not None:
            data = shard[span.start : span.start + span.length]
            encoding.decode_chunk(data, how, check=True)


def test_raw_values_are_not_copied():
    values = np.arange(12, dtype="<f4").reshape(4, 3)
    body, _ = encoding.encode_chunk(values, Encoding(values.dtype, (4, 3), False))
    assert np.shares_memory(np.frombuffer(body, np.uint8), values)


def test_unchecked_raw_chunk_is_not_read():
    how = Encoding(np.dtype("<f4"), (2,), False)
    data = bytearray(b"".join(encoding.encode_chunk(np.ones(2, "<f4"), how)))
    data[0] ^= 1
    assert len(encoding.decode_chunk(bytes(data), how, check=False)) == 2
