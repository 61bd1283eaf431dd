"""SAELens's cache on disk: rows of tokens, and their activations at each hook."""

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import torch
from datasets.table import MemoryMappedTable
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from trilemma.texts import files_digest

_STATE = "state.json"
_FILES = "_data_files"
_TOKENS = "token_ids"
_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
}

Rows = slice | Int64[np.ndarray, " rows"]


class Cache:
    """Rows of `ctx` tokens and their activations, in Arrow files.

    A file is mapped only while some of its rows are copied, so that what is held does
    not grow with the cache.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        files: list[Path],
        starts: Int64[np.ndarray, " files_and_end"],
        ctx: int,
        widths: dict[str, int],
        dtype: str,
    ) -> None:
        """Hold what `open` found; file `i` begins with row `starts[i]`."""
        self.hooks = tuple(widths)
        self.ctx = ctx
        self.dtype = dtype
        self.num_rows = int(starts[-1])
        self._path = path
        self._files = files
        self._starts = starts
        self._widths = widths

    @classmethod
    def open(cls, path: str | Path) -> "Cache":
        """Return the cache in a folder, after a look at each file but at no row.

        Raises:
            ValueError: the folder holds no such cache, or one without tokens.
        """
        files = _listed(Path(path))
        schema = _open(files[0]).schema
        counts = []
        for file in files:
            table = _open(file)
            counts.append(table.num_rows)
            if not table.schema.equals(schema):
                raise ValueError(
                    f"corpus.path: {file} has other columns than {files[0].name}; "
                    "cache the activations again"
                )
        features = datasets.Features.from_arrow_schema(schema)
        arrays = {k: v for k, v in features.items() if isinstance(v, datasets.Array2D)}
        if not arrays:
            raise ValueError(
                f"corpus.path: {str(path)!r} holds no activations, only "
                f"{', '.join(features)}; name a folder of SAELens's "
                "CacheActivationsRunner"
            )
        if _TOKENS not in features:
            raise ValueError(
                f"corpus.path: {str(path)!r} has no column {_TOKENS!r}; cache the "
                "activations again with a SAELens that keeps the token ids"
            )
        first = next(iter(arrays.values()))
        ctx, dtype = first.shape[0], first.dtype
        for name, array in arrays.items():
            is_alike = (array.shape[0], array.dtype) == (ctx, dtype)
            if array.dtype not in _DTYPES or not is_alike:
                raise ValueError(
                    f"corpus.path: column {name!r} of {str(path)!r} is {array.dtype} "
                    f"{list(array.shape)}; hooks must be {' or '.join(_DTYPES)}, all "
                    "the same and with as many tokens in a row"
                )
        return cls(
            path,
            files=files,
            starts=np.cumsum([0, *counts]),
            ctx=ctx,
            widths={name: array.shape[1] for name, array in arrays.items()},
            dtype=dtype,
        )

    def __repr__(self) -> str:
        return (
            f"Cache({str(self._path)!r}, {self.num_rows:,} rows of {self.ctx} tokens, "
            f"hooks={list(self.hooks)})"
        )

    def d_in(self, hook: str) -> int:
        """Return the width of a hook's activations.

        Raises:
            ValueError: the cache has no such hook.
        """
        if hook not in self._widths:
            raise ValueError(
                f"harvest.hooks: {hook!r} is not in {str(self._path)!r}; it holds "
                f"{', '.join(self.hooks)}"
            )
        return self._widths[hook]

    def tokens(self, rows: Rows) -> Int32[np.ndarray, "rows ctx"]:
        """Return the token ids of some rows, in the order asked for."""
        return self._read(_TOKENS, rows, (self.ctx,), np.dtype(np.int32))

    def activations(self, hook: str, rows: Rows) -> Float[Tensor, "rows ctx d_in"]:
        """Return the activations of some rows, in the order asked for, as cached.

        Raises:
            ValueError: the cache has no such hook, or a file of it is damaged.
        """
        shape = (self.ctx, self.d_in(hook))
        return torch.from_numpy(self._read(hook, rows, shape, _DTYPES[self.dtype]))

    def digest(self) -> str:
        """Return the SHA-256 of the files' contents in their order."""
        return files_digest(self._files)

    def _read(
        self, column: str, rows: Rows, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> npt.NDArray[Any]:
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self.num_rows))
        assert not len(rows) or 0 <= rows.min() <= rows.max() < self.num_rows
        found = np.empty((len(rows), *shape), dtype)
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        bounds = np.searchsorted(ordered, self._starts)
        for index in np.flatnonzero(np.diff(bounds)):
            mine = slice(bounds[index], bounds[index + 1])
            places, wanted = order[mine], ordered[mine] - self._starts[index]
            first = 0
            for chunk in _open(self._files[index]).column(column).chunks:
                low, high = np.searchsorted(wanted, [first, first + len(chunk)])
                if low < high:
                    values = _values(chunk, self._files[index], shape)
                    found[places[low:high]] = values[wanted[low:high] - first]
                first += len(chunk)
        return found


def _values(chunk: Any, file: Path, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return an Arrow array as it lies in its file, without a copy.

    It is `Any` because pyarrow has no types.
    """
    flat = getattr(chunk, "storage", chunk)
    for _ in shape:
        flat = flat.flatten()
    if len(flat) != len(chunk) * np.prod(shape):
        raise ValueError(
            f"corpus.path: {file} has rows without values, or of other lengths "
            f"than {list(shape)}; cache the activations again"
        )
    values: npt.NDArray[Any] = flat.to_numpy(zero_copy_only=True)
    return values.reshape(len(chunk), *shape)


def _listed(folder: Path) -> list[Path]:
    """Return the Arrow files of a folder in the order of their rows."""
    if not (folder / _STATE).is_file():
        raise ValueError(
            f"corpus.path: {str(folder)!r} has no {_STATE}; name the folder that "
            "SAELens's CacheActivationsRunner filled"
        )
    files = [folder / file["filename"] for file in _read_json(folder / _STATE)[_FILES]]
    if not files:
        raise ValueError(f"corpus.path: {str(folder)!r} holds no rows; cache some")
    return files


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"corpus.path: {path} is not JSON; copy or cache it again"
        ) from error
    return value


def _open(file: Path) -> MemoryMappedTable:
    try:
        return MemoryMappedTable.from_file(str(file))
    except (OSError, ValueError) as error:  # of Arrow's, too, which are these
        raise ValueError(
            f"corpus.path: {file} cannot be read ({str(error).splitlines()[0]}); copy "
            "or cache it again"
        ) from error
