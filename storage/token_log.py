"""Tokens of documents in the order of reading, in files that survive a kill."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from storage import durable
from storage.token_rows import DOCUMENT, DTYPES, TOKENS

_RECORD = "record.json"
_DIGESTS = "digests"
_LABELS = "labels"
_LABEL: np.dtype[Any] = np.dtype(np.int16)
_NO_LABEL = -1


class Split(NamedTuple):
    """What has been appended of one split."""

    num_documents: int = 0
    num_tokens: int = 0


class TokenLog:
    """Raw files of token ids and document numbers, one pair for each split.

    What is known of each document, its digest and label, is in files for them all.

    What was appended since the last record is dropped when the log is opened again, as
    if it had never come. So whoever appends goes on from the `state` of that record,
    None where there is none.
    """

    def __init__(self, folder: Path, *, splits: Sequence[str]) -> None:
        self._folder = folder
        names = [f"{split}_{name}" for split in splits for name in DTYPES]
        names += [_DIGESTS, _LABELS]
        record = _read(folder / _RECORD)
        if record is None or not self._holds(names, record["bytes"]):
            shutil.rmtree(folder, ignore_errors=True)
            durable.make_folder(folder)
            record = {
                "bytes": dict.fromkeys(names, 0),
                "splits": dict.fromkeys(splits, Split()),
                "state": None,
            }
        self.state: Any = record["state"]
        self.splits = {name: Split(*found) for name, found in record["splits"].items()}
        self._files = {}
        for name, length in record["bytes"].items():
            self._files[name] = (folder / name).open("ab")
            self._files[name].truncate(length)
            # Else the first `tell` would still give the end that was cut off.
            self._files[name].seek(length)

    def __enter__(self) -> "TokenLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            file.close()

    def raw(self, split: str, name: str) -> Path:
        """Return the file of raw values of a split, whole after a record."""
        return self._folder / f"{split}_{name}"

    def digests(self, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Return what was appended as digests before the log was opened."""
        return np.fromfile(self._folder / _DIGESTS, dtype)

    def labels(self) -> npt.NDArray[np.int16]:
        """Return the label of each document up to the record; -1 for none."""
        return np.fromfile(self._folder / _LABELS, _LABEL)

    def append(
        self,
        split: str,
        tokens: npt.NDArray[np.int32],
        document: int,
        digest: bytes,
        label: int | None,
    ) -> None:
        """Append the tokens of one document, whose numbers grow."""
        assert tokens.dtype == DTYPES[TOKENS]
        numbers = np.full(len(tokens), document, DTYPES[DOCUMENT])
        self._files[f"{split}_{TOKENS}"].write(tokens.tobytes())
        self._files[f"{split}_{DOCUMENT}"].write(numbers.tobytes())
        self._files[_DIGESTS].write(digest)
        kept = _NO_LABEL if label is None else label
        self._files[_LABELS].write(np.array(kept, _LABEL).tobytes())
        before = self.splits[split]
        self.splits[split] = Split(
            before.num_documents + 1, before.num_tokens + len(tokens)
        )

    def record(self, state: Any) -> None:
        """Keep all that was appended, and a JSON value to go on from, durably."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        self.state = state
        record = {
            "bytes": {name: file.tell() for name, file in self._files.items()},
            "splits": self.splits,
            "state": state,
        }
        durable.write_json(self._folder / _RECORD, record)

    def num_documents_in(self, split: str, num_tokens: int) -> int:
        """Return how many documents the first so many tokens of a split belong to."""
        if num_tokens == 0:
            return 0
        dtype = DTYPES[DOCUMENT]
        last = np.fromfile(
            self.raw(split, DOCUMENT), dtype, offset=(num_tokens - 1) * dtype.itemsize
        )
        return self.splits[split].num_documents - len(np.unique(last)) + 1

    def _holds(self, names: Sequence[str], lengths: dict[str, int]) -> bool:
        """Return whether each file was recorded, and is as long as that at least."""
        paths = {self._folder / name: length for name, length in lengths.items()}
        return lengths.keys() == set(names) and all(
            path.is_file() and path.stat().st_size >= length
            for path, length in paths.items()
        )


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return record
