"""SHA-256 of local files, kept from run to run while the files stay the same."""

import contextlib
import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import StringConstraints, TypeAdapter

_log = logging.getLogger(__name__)

# A file may change again without a new time within the clock's resolution, which is two
# seconds at worst (FAT).
_FRESH_NS = 2_000_000_000
# The oldest beyond these are forgotten, so that the file stays small.
_MOST_FILES = 50_000


class _Signature(NamedTuple):
    """What changes when a file is written."""

    size: int
    mtime_ns: int
    ctime_ns: int
    """Also changes where the other two have been set back."""


class _Known(NamedTuple):
    signature: _Signature
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


_Digests = dict[str, _Known]
_DIGESTS: TypeAdapter[_Digests] = TypeAdapter(_Digests)
# Of this process, which needs no second look at the disk.
_memory: _Digests = {}


def sha256(paths: Sequence[Path]) -> list[str]:
    """Return the SHA-256 of each file's bytes, in hexadecimal.

    A file is read only if its size or times are not those of its last reading, by this
    process or another, or if it was written just now.
    """
    signatures = [_signature(path) for path in paths]
    fresh_ns = time.time_ns() - _FRESH_NS
    names = [os.fsencode(path.absolute()).decode(errors="replace") for path in paths]
    if any(name not in _memory for name in names):
        _memory.update(_kept())
    new: _Digests = {}
    digests = []
    try:
        for path, name, signature in zip(paths, names, signatures, strict=True):
            is_old = signature.mtime_ns < fresh_ns
            known = _memory.get(name)
            if is_old and known is not None and known.signature == signature:
                digests.append(known.sha256)
                continue
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
            if is_old and _signature(path) == signature:
                new[name] = _Known(signature, digests[-1])
    finally:
        # What was read is kept even if something ends the reading.
        if new:
            _memory.update(new)
            _keep(new)
    return digests


def place() -> Path | None:
    """Return the file that keeps the digests; None for a user without a home."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(cache)
    return folder / "trilemma" / "digests.json" if folder.is_absolute() else None


def _signature(path: Path) -> _Signature:
    found = path.stat()
    return _Signature(found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _kept() -> _Digests:
    """Return what is kept; nothing, and a line in the log, if it cannot be read."""
    path = place()
    try:
        return {} if path is None else _load(path)
    except (OSError, ValueError) as error:  # of JSON's and pydantic's, too
        _log.warning(
            "%s cannot be read (%s); all files are read again",
            path,
            str(error).splitlines()[0],
        )
        return {}


def _load(path: Path) -> _Digests:
    try:
        return _DIGESTS.validate_python(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return {}


def _keep(new: _Digests) -> None:
    """Add to what is kept; that it cannot be written is a line in the log."""
    path = place()
    if path is None:
        return
    every: _Digests = {}
    with contextlib.suppress(OSError, ValueError):
        # Others may have written since; a broken file is replaced.
        every = _load(path)
    every = {name: known for name, known in every.items() if name not in new} | new
    newest = dict(list(every.items())[-_MOST_FILES:])
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(newest))
        os.replace(aside, path)
    except OSError as error:
        _log.warning(
            "%s cannot be written (%s), the next run reads %d files again; set "
            "XDG_CACHE_HOME to a folder that can",
            path,
            error.strerror,
            len(new),
        )
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
