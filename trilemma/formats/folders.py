"""Folders of SAEs in any format: find out which, read it; write it in a chosen one."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from trilemma.formats import (
    dictionary_learning,
    gemma_scope,
    openmoss,
    saelens,
    sparsify,
)
from trilemma.formats.saelens import SAEFile

Format = Literal["saelens", "dictionary_learning", "sparsify"]


class _Readable(NamedTuple):
    name: str
    files: tuple[str, ...]
    """What tells a folder of this format from the others."""
    read: Callable[[Path], SAEFile]
    surroundings: Callable[[Path], dict[str, Any]] | None = None
    """Reads what is not in the folder's files; None where all is."""


_READABLE = (
    _Readable("SAELens", (saelens.CONFIG_FILE, saelens.WEIGHTS_FILE), saelens.read),
    _Readable(
        "sparsify",
        (sparsify.CONFIG_FILE, sparsify.WEIGHTS_FILE),
        sparsify.read,
        sparsify.surroundings,
    ),
    _Readable("OpenMOSS", (openmoss.CONFIG_FILE, openmoss.WEIGHTS_FILE), openmoss.read),
    _Readable(
        "dictionary_learning",
        (dictionary_learning.CONFIG_FILE, dictionary_learning.WEIGHTS_FILE),
        dictionary_learning.read,
    ),
    _Readable("Gemma Scope", (gemma_scope.WEIGHTS_FILE,), gemma_scope.read),
)
_WRITERS: dict[Format, Callable[[SAEFile, Path], None]] = {
    "saelens": saelens.write,
    "dictionary_learning": dictionary_learning.write,
    "sparsify": sparsify.write,
}
_SHOWN = 8


def read(folder: str | Path) -> SAEFile:
    """Return the SAE in a folder of any format."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: found no such folder; name one with an SAE")
    names = sorted(path.name for path in folder.iterdir())
    if readable := _readable(names):
        return readable.read(folder)
    allowed = "; ".join(f"{f.name}: {' and '.join(f.files)}" for f in _READABLE)
    found = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    raise ValueError(
        f"{folder}: found {found or 'nothing'}; an SAE can be read from {allowed}"
    )


def surroundings(folder: Path) -> dict[str, Any]:
    """Return what is read of an SAE outside its files; empty where they tell all."""
    found = _readable([path.name for path in folder.iterdir()])
    if found is None or found.surroundings is None:
        return {}
    return found.surroundings(folder)


def write(file: SAEFile, folder: str | Path, file_format: Format) -> None:
    """Write an SAE into a folder; equal SAEs give equal bytes.

    Raises:
        ValueError: the format has no words for it.
    """
    if file.is_transcoder and file_format != "saelens":
        raise ValueError(
            f"{file_format}: found a transcoder; choose saelens, which has them"
        )
    if file.widths and file_format != "saelens":
        raise ValueError(
            f"{file_format}: found a crosscoder; choose saelens, in whose folders it "
            "has an architecture of our own"
        )
    _WRITERS[file_format](file, Path(folder))
    # Safetensors writes files that their owner alone can read.
    for path in Path(folder).glob("*.safetensors"):
        shutil.copymode(next(path.parent.glob("*.json")), path)


def _readable(names: Sequence[str]) -> _Readable | None:
    """Return the format of a folder with files of these names, if it has one."""
    return next((each for each in _READABLE if set(each.files) <= set(names)), None)
