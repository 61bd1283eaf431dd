"""Rows of tokens in .npy files: read a few at a time, written in a given order."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from storage import durable

TOKENS, DOCUMENT = "tokens", "document"
DTYPES: dict[str, np.dtype[Any]] = {
    TOKENS: np.dtype(np.int32),
    DOCUMENT: np.dtype(np.int64),
}
_BLOCK_BYTES = 16 << 20


class Rows:
    """The token rows of one split, and the document of each token.

    Nothing stays open or mapped between two calls, so that memory holds only what was
    asked for; it can be handed to other processes.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self._tokens = _Array(path(folder, split, TOKENS))
        self._document = _Array(path(folder, split, DOCUMENT))
        self.num_seqs, self.ctx = self._tokens.shape

    def __repr__(self) -> str:
        return f"Rows({self.num_seqs:,} rows of {self.ctx} tokens)"

    def tokens(self, rows: slice) -> npt.NDArray[np.int32]:
        """Return the token ids of some successive rows, `[rows, ctx]`."""
        return self._tokens.read(rows)

    def document(self, rows: slice) -> npt.NDArray[np.int64]:
        """Return the document of each token of some successive rows, `[rows, ctx]`."""
        return self._document.read(rows)


def path(folder: Path, split: str, name: str) -> Path:
    """Return the file of one array of a split."""
    return folder / f"{split}_{name}.npy"


def write_ordered(
    target: Path,
    raw: Path,
    *,
    dtype: np.dtype[Any],
    ctx: int,
    order: npt.NDArray[np.int64],
    report: Callable[[int], None],
) -> None:
    """Write row `order[i]` of a raw file as row `i` of a .npy file, block by block.

    The bytes are those of `np.save`, and are on the disk at the end. `report` is told
    the bytes of each block; what it raises ends the writing.
    """
    row_bytes = ctx * dtype.itemsize
    block_rows = max(1, _BLOCK_BYTES // row_bytes)
    with raw.open("rb", buffering=0) as source, target.open("wb") as file:
        header = {
            "descr": npy.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": (len(order), ctx),
        }
        npy.write_array_header_1_0(file, header)
        for first in range(0, len(order), block_rows):
            rows = order[first : first + block_rows]
            block = np.empty((len(rows), ctx), dtype)
            # In the order of the disk.
            for place in np.argsort(rows):
                offset = int(rows[place]) * row_bytes
                count = os.preadv(source.fileno(), [block[place]], offset)
                assert count == row_bytes
            file.write(block.data)
            report(block.nbytes)
    durable.sync(target)


class _Array:
    """A .npy file of rows whose header has been read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            version = npy.read_magic(file)
            assert version == (1, 0)
            shape, is_fortran, self._dtype = npy.read_array_header_1_0(file)
            self._offset = file.tell()
        assert not is_fortran
        self.shape: tuple[int, int] = (shape[0], shape[1])

    def read(self, rows: slice) -> npt.NDArray[Any]:
        num_seqs, ctx = self.shape
        first, stop, step = rows.indices(num_seqs)
        assert step == 1
        count = max(0, stop - first)
        found = np.fromfile(
            self._path,
            self._dtype,
            count=count * ctx,
            offset=self._offset + first * ctx * self._dtype.itemsize,
        )
        return found.reshape(count, ctx)
