"""The activation store of one split: a Zarr v3 group of hooks, tokens and masks."""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import zarr
from torch import Tensor

from storage import layout, store_metadata
from storage.chunk_reader import ChunkReader, StoreError
from storage.places import Place, open_place

__all__ = ["Store", "StoreBatch", "StoreError", "as_tensor", "torch_dtype"]

_TORCH = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
}


class StoreBatch(NamedTuple):
    """Whole sequences in stored order, `[batch, ctx]`; x is `[batch, ctx, d_in]`."""

    tokens: Tensor
    document: Tensor
    mask: Tensor
    x: Tensor


class OpenSequences(NamedTuple):
    """The sequences of one chunk, `[num, ctx]`; x as stored, `[num, ctx, d_in]`."""

    tokens: npt.NDArray[Any]
    document: npt.NDArray[Any]
    mask: npt.NDArray[Any]
    x: npt.NDArray[Any]
    dtype: str

    def batch(self, rows: slice) -> StoreBatch:
        """Return copies of some of them; activations are float32."""
        tokens, document, mask, x = (part[rows].copy() for part in self[:4])
        return StoreBatch(
            torch.from_numpy(tokens),
            torch.from_numpy(document),
            torch.from_numpy(mask),
            as_tensor(x, self.dtype).float(),
        )


class _Piece(NamedTuple):
    """Rows of one chunk: where they are in it, and where they go."""

    chunk: int
    inside: slice
    outside: slice


class Store:
    """A committed activation store, open for reading.

    Only a store that a manifest vouches for can be opened. Every chunk that is read is
    checked, since plain Zarr would take a missing one for zeros.
    """

    def __init__(self, place: Place, attributes: Mapping[str, Any]) -> None:
        """Wrap the store that lies at `place`; use `Store.open`."""
        self._place = place
        self._grid = layout.grid_of(attributes)
        self._reader = ChunkReader(place, self._grid)
        self._statistics: dict[str, dict[str, Any]] = {}
        self.provenance: dict[str, Any] = attributes["provenance"]

    @classmethod
    def open(cls, where: str | Path) -> "Store":
        """Return the store at a path or URL such as `s3://team/harvest/0f/train.zarr`.

        Raises:
            StoreError: there is no store, or it is unfinished work.
            storage.artifacts.ArtifactError: a file is missing or has another size.
            storage.places.PlaceError: a bucket cannot be read.
        """
        above, _, name = str(where).rstrip("/").rpartition("/")
        return cls.within(open_place(above or Path(where).parent), name)

    @classmethod
    def within(cls, place: Place, name: str) -> "Store":
        """Return the store of a name in the place of its artifact; see `open`."""
        found = store_metadata.read(place, name)
        attributes = found[layout.METADATA]
        store = cls(place.child(name), attributes)
        for hook in store.hooks:
            hook_attributes = found[f"{hook}/{layout.METADATA}"]
            store._statistics[hook] = hook_attributes["statistics"]
        return store

    def __repr__(self) -> str:
        """Return the store's place, size and hooks."""
        return (
            f"Store({self.url!r}, {self.num_tokens:,} tokens, hooks={list(self.hooks)})"
        )

    @property
    def url(self) -> str:
        """Return the path or URL of the store."""
        return self._place.url

    @functools.cached_property
    def group(self) -> zarr.Group:
        """Return the plain Zarr group, which takes a missing chunk for zeros."""
        return zarr.open_group(self._place.zarr_store(), mode="r", zarr_format=3)

    @property
    def ctx(self) -> int:
        """Return the tokens of a sequence."""
        return self._grid.ctx

    @property
    def num_seqs(self) -> int:
        """Return the number of sequences."""
        return self._grid.num_seqs

    @property
    def num_tokens(self) -> int:
        """Return the number of rows, masked ones included."""
        return self.num_seqs * self.ctx

    @property
    def chunk_seqs(self) -> int:
        """Return the sequences of a chunk; the last one may have fewer."""
        return self._grid.chunk_seqs

    @property
    def num_chunks(self) -> int:
        """Return the number of chunks of each hook."""
        return self._grid.num_chunks

    @property
    def dtypes(self) -> dict[str, str]:
        """Return the name of each hook's stored dtype."""
        return self._grid.dtypes

    @property
    def hooks(self) -> tuple[str, ...]:
        """Return the hooks whose activations are stored."""
        return tuple(self.dtypes)

    def d_in(self, hook: str) -> int:
        """Return the width of a hook's activations."""
        return self._grid.widths[self._checked(hook)]

    def dtype(self, hook: str) -> torch.dtype:
        """Return the dtype in which rows are given: as stored, but float32 for int8."""
        name = self.dtypes[self._checked(hook)]
        return torch.float32 if name == "int8" else _TORCH[name]

    def statistics(self, hook: str) -> dict[str, Any]:
        """Return a hook's statistics over unmasked rows, as recorded at harvest."""
        return self._statistics[self._checked(hook)]

    def mean(self, hook: str) -> Tensor:
        """Return the mean activation over unmasked rows, `[d_in]`, float64."""
        return self._vector(hook, "mean")

    def variance(self, hook: str) -> Tensor:
        """Return the variance of each dimension over unmasked rows, float64."""
        return self._vector(hook, "variance")

    def read(self, hook: str, start: int, stop: int) -> Tensor:
        """Return rows `[start, stop)` of a hook, `[rows, d_in]`; see `dtype`.

        They are plain rows by their position, also those that do not count: which do,
        `mask` says.

        Raises:
            StoreError: there are no such rows, or a chunk is missing or has changed.
        """
        self._check_rows(start, stop)
        x = torch.empty((stop - start, self.d_in(hook)), dtype=self.dtype(hook))
        given = x.view(torch.uint16) if x.dtype == torch.bfloat16 else x
        for chunk, inside, outside in self._pieces(start, stop):
            values = self.open_chunk(hook, chunk, check=True)
            given.numpy()[outside] = values[inside]
        return x

    def open_chunk(self, hook: str, chunk: int, *, check: bool) -> npt.NDArray[Any]:
        """Return all rows of a chunk, `[rows, d_in]`, bfloat16 as uint16 of its bits.

        Also those that do not count: which do, `unmasked` says. Where the chunk is not
        compressed and lies on a local disk it is mapped, and read as it is used; int8
        comes as float32, in memory, which is four times its stored size.

        Args:
            hook: whose activations.
            chunk: its number.
            check: whether to compare the checksum of a chunk that is mapped; others
                are always checked.

        Raises:
            StoreError: the chunk is missing or has changed; names hook and file.
        """
        array = self._grid.array(f"{self._checked(hook)}/activations")
        values = self._reader.open(array, chunk, check=check)
        if self.dtypes[hook] != "int8":
            return values
        x = values.astype(np.float32)
        x *= self._reader.read(self._grid.array(f"{hook}/scale"), chunk)[:, None]
        return x

    def mask(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Return the mask of rows `[start, stop)`; 0 where a row counts."""
        self._check_rows(start, stop)
        mask = np.empty(stop - start, np.uint8)
        for chunk, inside, outside in self._pieces(start, stop):
            mask[outside] = self._read("mask", chunk)[inside]
        return mask

    def unmasked(self, chunk: int) -> npt.NDArray[np.int64]:
        """Return which rows of a chunk count, as numbers within the chunk."""
        return np.flatnonzero(self._read("mask", chunk) == 0)

    def unmasked_rows(self) -> npt.NDArray[np.int64]:
        """Return how many rows of each chunk count."""
        array = layout.whole("unmasked_rows", np.dtype("<i8"), self.num_chunks)
        return self._reader.read(array, 0)

    def documents(self, chunk: int) -> npt.NDArray[np.int64]:
        """Return the document of each row of a chunk."""
        return self._read("document", chunk).reshape(-1)

    def chunk(self, hook: str, index: int) -> Tensor:
        """Return the unmasked rows of one chunk, `[rows, d_in]`; see `dtype`."""
        values = self.open_chunk(hook, index, check=True)
        return as_tensor(values[self.unmasked(index)], self.dtypes[hook])

    def first_rows(self, hook: str, num: int) -> Tensor:
        """Return the first unmasked rows, at most `num`, float32.

        Sequences are shuffled before they are stored, so they are a sample.
        """
        return self.rows_at(hook, np.arange(min(num, self.unmasked_rows().sum())))

    def rows_at(self, hook: str, places: npt.NDArray[np.int64]) -> Tensor:
        """Return unmasked rows by their ascending places among all of them, float32.

        Only chunks that hold some of them are read.
        """
        ends = np.cumsum(self.unmasked_rows())
        chunk_of = np.searchsorted(ends, places, side="right")
        parts = [torch.zeros(0, self.d_in(hook))]
        for index in np.unique(chunk_of):
            before = ends[index - 1] if index > 0 else 0
            inside = places[chunk_of == index] - before
            parts.append(self.chunk(hook, int(index))[inside].float())
        return torch.cat(parts)

    def sequences(
        self, hook: str, batch_seqs: int, *, limit: int | None
    ) -> Iterator[StoreBatch]:
        """Yield whole sequences in stored order, at most `limit` of them.

        All rows are there; the batch's mask says which count. Activations are float32.
        Batches do not cross chunks, so each chunk is read once; hence some hold fewer
        than `batch_seqs` sequences.
        """
        last = self.num_seqs if limit is None else min(limit, self.num_seqs)
        for chunk in range(-(-last // self.chunk_seqs)):
            span = self._grid.sequences(chunk)
            opened = self.open_sequences(hook, chunk)
            num = min(last, span.stop) - span.start
            for start in range(0, num, batch_seqs):
                yield opened.batch(slice(start, min(start + batch_seqs, num)))

    def open_sequences(self, hook: str, chunk: int) -> OpenSequences:
        """Return the sequences of a chunk, to read any of them; see `open_chunk`."""
        x = self.open_chunk(hook, chunk, check=True)
        return OpenSequences(
            self._read("tokens", chunk).astype(np.int64),
            self._read("document", chunk),
            self._read("mask", chunk).reshape(-1, self.ctx),
            x.reshape(-1, self.ctx, x.shape[1]),
            self.dtypes[hook],
        )

    def _vector(self, hook: str, name: str) -> Tensor:
        array = layout.whole(
            f"{self._checked(hook)}/{name}", np.dtype("<f8"), self.d_in(hook)
        )
        return torch.from_numpy(self._reader.read(array, 0).copy())

    def _read(self, name: str, chunk: int) -> npt.NDArray[Any]:
        return self._reader.read(self._grid.array(name), chunk)

    def _pieces(self, start: int, stop: int) -> Iterator[_Piece]:
        """Yield what each chunk holds of the rows."""
        length = self.chunk_seqs * self.ctx
        for chunk in range(start // length, -(-stop // length)):
            rows = self._grid.rows(chunk)
            first, last = max(start, rows.start), min(stop, rows.stop)
            yield _Piece(
                chunk,
                slice(first - rows.start, last - rows.start),
                slice(first - start, last - start),
            )

    def _checked(self, hook: str) -> str:
        if hook not in self.dtypes:
            raise StoreError(
                f"{self.url}: has no hook {hook!r}; it holds {', '.join(self.hooks)}"
            )
        return hook

    def _check_rows(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.num_tokens:
            raise StoreError(
                f"{self.url}: has no rows {start:,} to {stop:,}; it holds "
                f"{self.num_tokens:,}"
            )


def torch_dtype(name: str) -> torch.dtype:
    """Return torch's dtype of a stored dtype's name."""
    return _TORCH[name]


def as_tensor(values: npt.NDArray[Any], dtype: str) -> Tensor:
    """Return stored values as the tensor they stand for, sharing memory."""
    tensor = torch.from_numpy(values)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor
