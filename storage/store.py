"""The activation store of one split: a Zarr v3 group of hooks, tokens and masks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
import zarr
from torch import Tensor

from storage import artifacts

FORMAT = "trilemma-activations"
FORMAT_VERSION = 1
_TORCH = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


class StoreError(ValueError):
    """A store that cannot be read as what it says it is."""


class StoreBatch(NamedTuple):
    """Whole sequences in stored order, `[batch, ctx]`; x is `[batch, ctx, d_in]`."""

    tokens: Tensor
    document: Tensor
    mask: Tensor
    x: Tensor


class Store:
    """A committed activation store, open for reading.

    Only a store that a manifest vouches for can be opened, since a chunk that is
    missing would otherwise read as zeros. `store.group` is the plain Zarr group.
    """

    def __init__(self, path: Path, group: zarr.Group) -> None:
        """Wrap an open group; use `Store.open`."""
        attributes = group.attrs.asdict()
        self.path = path
        self.group = group
        self.ctx = _int(attributes["ctx"])
        self.num_seqs = _int(attributes["num_seqs"])
        self.chunk_seqs = _int(attributes["chunk_seqs"])
        self.dtypes = cast("dict[str, str]", attributes["hooks"])
        self.provenance = cast("dict[str, Any]", attributes["provenance"])

    @classmethod
    def open(cls, path: str | Path) -> "Store":
        """Return the store at `path`, such as `artifacts/harvest/<key>/train.zarr`.

        Raises:
            StoreError: there is no store, or it is unfinished work.
            storage.artifacts.ArtifactError: a file is missing or has another size.
        """
        path = Path(path)
        manifest = artifacts.read_manifest(path.parent)
        if manifest is None:
            raise StoreError(
                f"{path}: found no finished store; run the harvest stage, and name the "
                "folder train.zarr or eval.zarr inside its artifact"
            )
        artifacts.check_sizes(path.parent, manifest)
        if f"{path.name}/zarr.json" not in manifest.files:
            raise StoreError(
                f"{path}: not in the manifest beside it; name train.zarr or eval.zarr"
            )
        group = zarr.open_group(path, mode="r", zarr_format=3)
        if group.attrs.get("format") != FORMAT:
            raise StoreError(f"{path}: is a Zarr group, but not an activation store")
        if group.attrs.get("version") != FORMAT_VERSION:
            raise StoreError(
                f"{path}: found format version {group.attrs.get('version')!r}; this "
                f"version reads {FORMAT_VERSION}"
            )
        return cls(path, group)

    def __repr__(self) -> str:
        """Return the store's place, size and hooks."""
        return (
            f"Store({str(self.path)!r}, {self.num_tokens:,} tokens, "
            f"hooks={list(self.dtypes)})"
        )

    @property
    def hooks(self) -> tuple[str, ...]:
        """Return the hooks whose activations are stored."""
        return tuple(self.dtypes)

    @property
    def num_tokens(self) -> int:
        """Return the number of rows, masked ones included."""
        return self.num_seqs * self.ctx

    @property
    def num_chunks(self) -> int:
        """Return the number of chunks of each hook."""
        return -(-self.num_seqs // self.chunk_seqs)

    def d_in(self, hook: str) -> int:
        """Return the width of a hook's activations."""
        return int(self._array(hook, "activations").shape[1])

    def read(self, hook: str, start: int, stop: int) -> Tensor:
        """Return rows `[start, stop)` of a hook, `[rows, d_in]`, as stored."""
        values = np.asarray(self._array(hook, "activations")[start:stop])
        return as_tensor(values, self.dtypes[hook])

    def mask(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Return the mask of rows `[start, stop)`; 0 where a row counts."""
        return np.asarray(_as_array(self.group["mask"])[start:stop])

    def unmasked_rows(self) -> npt.NDArray[np.int64]:
        """Return how many rows of each chunk count, `[num_chunks]`."""
        return np.asarray(_as_array(self.group["unmasked_rows"])[:])

    def statistics(self, hook: str) -> dict[str, Any]:
        """Return a hook's statistics over unmasked rows, as recorded at harvest."""
        return cast("dict[str, Any]", self._hook(hook).attrs.asdict()["statistics"])

    def mean(self, hook: str) -> Tensor:
        """Return the mean activation over unmasked rows, `[d_in]`, float64."""
        return torch.from_numpy(np.asarray(self._array(hook, "mean")[:]))

    def chunk(self, hook: str, index: int) -> Tensor:
        """Return the unmasked rows of one chunk, `[rows, d_in]`, as stored."""
        rows = self.chunk_seqs * self.ctx
        start, stop = index * rows, min((index + 1) * rows, self.num_tokens)
        keep = torch.from_numpy(self.mask(start, stop) == 0)
        return self.read(hook, start, stop)[keep]

    def sequences(
        self, hook: str, batch_seqs: int, *, limit: int | None
    ) -> Iterator[StoreBatch]:
        """Yield whole sequences in stored order, at most `limit` of them.

        Activations are float32. Batches do not cross chunks, so each chunk is read
        once; hence some hold fewer than `batch_seqs` sequences.
        """
        last = self.num_seqs if limit is None else min(limit, self.num_seqs)
        for first in range(0, last, self.chunk_seqs):
            stop = min(first + self.chunk_seqs, last)
            x = self.read(hook, first * self.ctx, stop * self.ctx)
            mask = self.mask(first * self.ctx, stop * self.ctx)
            tokens = np.asarray(_as_array(self.group["tokens"])[first:stop])
            document = np.asarray(_as_array(self.group["document"])[first:stop])
            whole = StoreBatch(
                torch.from_numpy(tokens).long(),
                torch.from_numpy(document),
                torch.from_numpy(mask).view(-1, self.ctx),
                x.view(-1, self.ctx, x.shape[1]),
            )
            for start in range(0, stop - first, batch_seqs):
                part = StoreBatch(*(t[start : start + batch_seqs] for t in whole))
                yield part._replace(x=part.x.float())

    def _hook(self, hook: str) -> zarr.Group:
        if hook not in self.dtypes:
            raise StoreError(
                f"{self.path}: has no hook {hook!r}; it holds {', '.join(self.dtypes)}"
            )
        return cast("zarr.Group", self.group[hook])

    def _array(self, hook: str, name: str) -> "zarr.Array[Any]":
        return _as_array(self._hook(hook)[name])


def torch_dtype(name: str) -> torch.dtype:
    """Return torch's dtype of a stored dtype's name."""
    return _TORCH[name]


def as_tensor(values: npt.NDArray[Any], dtype: str) -> Tensor:
    """Return stored values as the tensor they stand for, sharing memory."""
    tensor = torch.from_numpy(values)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


def _as_array(node: Any) -> "zarr.Array[Any]":  # zarr types a member as Array | Group
    assert isinstance(node, zarr.Array)
    return node


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value
