"""Commit records: one small object for each part of a store in the making."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from storage.artifacts import COMMITS, File, is_commit_record
from storage.layout import Grid
from storage.places import Place

_SUFFIX = ".json"
_READERS = 8
# How many records are read together.
_BATCH = 64


class Record(BaseModel):
    """The commit record of a part."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: int
    chunks: tuple[int, int]
    rows: int
    files: dict[str, File]
    statistics: list[Any]
    """Of each chunk; any JSON."""


def forget_commits(place: Place) -> None:
    """Remove the commit records of all splits, once the artifact is committed."""
    names = [entry.name for entry in place.list("")]
    place.delete(*(name for name in names if is_commit_record(name)))


class Commits:
    """The commit records of one split."""

    def __init__(self, place: Place, split: str, grid: Grid) -> None:
        """Name the split; nothing is read yet."""
        self.folder = f"{split}{COMMITS}"
        self._place = place
        self._root = f"{split}.zarr"
        self._grid = grid

    def name(self, part: int) -> str:
        """Return the name of a part's record."""
        return f"{self.folder}/{part:08d}{_SUFFIX}"

    def names(self) -> dict[int, str]:
        """Return the names of the records that are there, by part and in order."""
        found = {entry.name for entry in self._place.list(self.folder)}
        names = {part: self.name(part) for part in range(self._grid.num_parts)}
        return {part: name for part, name in names.items() if name in found}

    def read(self) -> Iterator[Record]:
        """Yield the records of parts whose files have the sizes recorded, in order."""
        sizes = {entry.name: entry.bytes for entry in self._place.list(self._root)}
        names = self.names()
        parts = list(names)
        with ThreadPoolExecutor(_READERS) as pool:
            for first in range(0, len(parts), _BATCH):
                some = parts[first : first + _BATCH]
                texts = pool.map(self._get, [names[part] for part in some])
                for part, text in zip(some, texts, strict=True):
                    record = self._parse(part, text, sizes)
                    if record is not None:
                        yield record

    def _get(self, name: str) -> bytes:
        try:
            return self._place.get(name)
        except FileNotFoundError:  # forgotten since, by a run that has committed
            return b""

    def _parse(self, part: int, text: bytes, sizes: Mapping[str, int]) -> Record | None:
        """Return a record, or None if it does not fit the files that are there."""
        try:
            record = Record.model_validate_json(text)
        except ValidationError:
            return None
        expected = {f"{self._root}/{a.file(part)}" for a in self._grid.arrays()}
        is_whole = (
            record.part == part
            and set(record.files) == expected
            and len(record.statistics) == len(self._grid.chunks_of(part))
            and all(
                sizes.get(name) == file.bytes for name, file in record.files.items()
            )
        )
        return record if is_whole else None
