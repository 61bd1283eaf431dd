"""Write an activation store chunk by chunk, so that a kill loses at most one chunk."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from storage import artifacts, durable
from storage.store import FORMAT, FORMAT_VERSION

_LOG = "commits.jsonl"
_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_ZARR_DTYPE = {"float32": "float32", "float16": "float16", "bfloat16": "uint16"}


class Layout(NamedTuple):
    """Everything that fixes the bytes of a store but the activations."""

    ctx: int
    widths: dict[str, int]
    """d_in of each hook."""
    dtype: str
    chunk_bytes: int
    codec: str
    provenance: dict[str, Any]

    def chunk_seqs(self) -> int:
        """Return how many whole sequences fit a chunk, at least one."""
        widest = max(self.widths.values())
        return max(1, self.chunk_bytes // (self.ctx * widest * _ITEM_BYTES[self.dtype]))

    def store_bytes(self, num_seqs: int) -> int:
        """Return the bytes of a store of so many sequences, before compression."""
        row = sum(self.widths.values()) * _ITEM_BYTES[self.dtype]
        row += 4 * len(self.widths) + 13
        return num_seqs * self.ctx * row


class HookChunk(NamedTuple):
    """One chunk of one hook, as it is stored, with the statistics of its rows."""

    values: npt.NDArray[Any]
    """`[rows, d_in]` in the stored dtype (bfloat16 as uint16)."""
    norm: npt.NDArray[np.float32]
    """Euclidean norm of each row, `[rows]`."""


def forget_commits(artifact: Path) -> None:
    """Remove the commit logs of all splits, once every split is finished."""
    for log in artifact.glob(f"*.{_LOG}"):
        log.unlink()


class StoreWriter:
    """A store in the making: `write_chunk` for each missing chunk, then `finish`.

    When all splits are finished, `forget_commits` comes before the artifact's commit.
    """

    def __init__(
        self,
        artifact: Path,
        split: str,
        layout: Layout,
        *,
        tokens: npt.NDArray[np.int32],
        document: npt.NDArray[np.int64],
        mask: npt.NDArray[np.uint8],
    ) -> None:
        """Open `artifact/<split>.zarr`, keeping the chunks that were committed.

        Args:
            artifact: the harvest stage's folder; its commit log lies there too.
            split: train or eval.
            layout: dtype, chunks and provenance; another layout starts afresh.
            tokens: `[num_seqs, ctx]`.
            document: `[num_seqs, ctx]`.
            mask: `[num_seqs * ctx]`, without the high-norm bit.
        """
        self.path = artifact / f"{split}.zarr"
        self._log = artifact / f"{split}.{_LOG}"
        self._layout = layout
        self._chunk_seqs = layout.chunk_seqs()
        self._tokens = tokens
        self._document = document
        self.first_mask = mask
        attributes = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "ctx": layout.ctx,
            "num_seqs": len(tokens),
            "chunk_seqs": self._chunk_seqs,
            "hooks": dict.fromkeys(layout.widths, layout.dtype),
            "provenance": layout.provenance,
        }
        self._group = self._resumed(attributes) or self._created(attributes)
        self.commits = self._read_commits()

    @property
    def num_chunks(self) -> int:
        """Return the number of chunks of each hook."""
        return -(-len(self._tokens) // self._chunk_seqs)

    def missing(self) -> list[int]:
        """Return the chunks that are still to be written, in order."""
        return [i for i in range(self.num_chunks) if i not in self.commits]

    def sequences(self, index: int) -> slice:
        """Return which sequences a chunk holds."""
        first = index * self._chunk_seqs
        return slice(first, min(first + self._chunk_seqs, len(self._tokens)))

    def rows(self, index: int) -> slice:
        """Return which rows a chunk holds."""
        sequences = self.sequences(index)
        return slice(
            sequences.start * self._layout.ctx, sequences.stop * self._layout.ctx
        )

    def write_chunk(self, index: int, hooks: Mapping[str, HookChunk]) -> None:
        """Write a chunk of every hook, wait for the disk, then commit it to the log."""
        rows = self.rows(index)
        for hook, chunk in hooks.items():
            self._array(f"{hook}/activations")[rows] = chunk.values
            self._array(f"{hook}/norm")[rows] = chunk.norm
        files = {}
        folders: set[Path] = set()
        for hook in hooks:
            for name in ("activations/c/{}/0", "norm/c/{}"):
                path = self.path / hook / name.format(index)
                durable.sync(path)
                # Zarr makes the folders between the array and its chunk.
                parents = path.relative_to(self.path / hook).parents[:-1]
                folders |= {self.path / hook / parent for parent in parents}
                files[path.relative_to(self.path.parent).as_posix()] = {
                    "bytes": path.stat().st_size,
                    "sha256": durable.sha256(path),
                }
        for folder in sorted(folders, reverse=True):
            durable.sync(folder)
        record = {"chunk": index, "rows": rows.stop - rows.start, "files": files}
        durable.append_line(self._log, durable.canonical_json(record))
        self.commits[index] = record

    def read_chunk(self, hook: str, index: int) -> npt.NDArray[Any]:
        """Return a committed chunk as it is stored, `[rows, d_in]`."""
        return np.asarray(self._array(f"{hook}/activations")[self.rows(index)])

    def norms(self, hook: str) -> npt.NDArray[np.float32]:
        """Return the norms of all rows of a hook."""
        return np.asarray(self._array(f"{hook}/norm")[:])

    def finish(
        self,
        mask: npt.NDArray[np.uint8],
        vectors: Mapping[str, Mapping[str, npt.NDArray[np.float64]]],
        statistics: Mapping[str, Mapping[str, Any]],
    ) -> dict[str, artifacts.File]:
        """Write what is known only at the end; return the hashes of the chunks.

        May be repeated: the commit log stays until `forget_commits`.

        Args:
            mask: the mask of all rows, the high-norm bit included.
            vectors: for each hook, arrays `[d_in]` such as the mean.
            statistics: for each hook, scalars that go into its attributes.
        """
        assert not self.missing()
        ctx, rows = self._layout.ctx, self._chunk_seqs * self._layout.ctx
        self._write("tokens", self._tokens, (self._chunk_seqs, ctx))
        self._write("document", self._document, (self._chunk_seqs, ctx))
        self._write("mask", mask, (rows,))
        kept = [
            int((mask[self.rows(index)] == 0).sum()) for index in range(self.num_chunks)
        ]
        self._write("unmasked_rows", np.array(kept, np.int64), (len(kept),))
        for hook, arrays in vectors.items():
            for name, values in arrays.items():
                self._write(f"{hook}/{name}", values, values.shape)
            node = cast("zarr.Group", self._group[hook])
            node.attrs.update({"statistics": dict(statistics[hook])})
        return {
            name: artifacts.File(**file)
            for record in self.commits.values()
            for name, file in record["files"].items()
        }

    def _resumed(self, attributes: dict[str, Any]) -> zarr.Group | None:
        try:
            group = zarr.open_group(self.path, mode="r+", zarr_format=3)
        except FileNotFoundError:
            return None
        for leftover in self.path.rglob("*.partial"):  # of a write that a kill cut
            leftover.unlink()
        complete = all(f"{h}/norm" in group for h in self._layout.widths)
        # Attributes are compared as JSON, since that is how they come back.
        same = group.attrs.asdict() == json.loads(durable.canonical_json(attributes))
        return group if complete and same else None

    def _created(self, attributes: dict[str, Any]) -> zarr.Group:
        shutil.rmtree(self.path, ignore_errors=True)
        self._log.unlink(missing_ok=True)
        durable.sync(self._log.parent)
        group = zarr.open_group(
            self.path, mode="w", zarr_format=3, attributes=attributes
        )
        num_rows = len(self._tokens) * self._layout.ctx
        rows = self._chunk_seqs * self._layout.ctx
        dtype = self._layout.dtype
        for hook, d_in in self._layout.widths.items():
            # Blosc with its byte shuffle is Zarr's own name for shuffle and zstd.
            squeeze = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle")
            codecs = [squeeze] if self._layout.codec == "shuffle-zstd" else []
            group.create_array(
                f"{hook}/activations",
                shape=(num_rows, d_in),
                chunks=(rows, d_in),
                dtype=_ZARR_DTYPE[dtype],
                compressors=[*codecs, Crc32cCodec()],
                attributes={"dtype": dtype},
                config={"write_empty_chunks": True},
            )
            group.create_array(
                f"{hook}/norm",
                shape=(num_rows,),
                chunks=(rows,),
                dtype="float32",
                compressors=[Crc32cCodec()],
                config={"write_empty_chunks": True},
            )
        return group

    def _read_commits(self) -> dict[int, dict[str, Any]]:
        """Return the committed chunks; from the log goes what no longer holds.

        That is a torn last line, and a chunk with a file gone or of another size.
        """
        commits: dict[int, dict[str, Any]] = {}
        if not self._log.exists():
            return commits
        text = self._log.read_text(encoding="utf-8")
        # Not splitlines: it also splits at the likes of U+2028 inside a name.
        for line in text.split("\n")[:-1]:
            record = json.loads(line)
            if all(self._is_whole(*file) for file in record["files"].items()):
                commits[record["chunk"]] = record
        kept = [durable.canonical_json(record) + "\n" for record in commits.values()]
        durable.write_text(self._log, "".join(kept))
        return commits

    def _is_whole(self, name: str, file: Mapping[str, Any]) -> bool:
        path = self.path.parent / name
        return path.is_file() and path.stat().st_size == file["bytes"]

    def _write(
        self, name: str, values: npt.NDArray[Any], chunks: tuple[int, ...]
    ) -> None:
        self._group.create_array(
            name,
            data=values,
            chunks=chunks,
            compressors=[Crc32cCodec()],
            config={"write_empty_chunks": True},
            overwrite=True,
        )

    def _array(self, name: str) -> "zarr.Array[Any]":
        node = self._group[name]
        assert isinstance(node, zarr.Array)
        return node
