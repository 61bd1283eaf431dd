"""Write files so that a reader, or a machine after a crash, sees all or nothing."""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import Buffer

_BLOCK_BYTES = 1 << 20
_SUFFIX = ".tmp"


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(
        value,
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
        ensure_ascii=False,
    )


def pretty_json(value: Any) -> str:
    """Return readable JSON with sorted keys and a final newline."""
    text = json.dumps(
        value, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False
    )
    return text + "\n"


def write_text(path: Path, text: str) -> None:
    """Replace a file's text, durably and at once."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace a file by the readable JSON of a value, durably and at once."""
    write_text(path, pretty_json(value))


def append_line(path: Path, line: str) -> None:
    """Append one line and wait until it is on the disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to, then move what was written to `path`, durably."""
    with _beside(path) as (aside, _):
        yield aside
        sync(aside)
        os.replace(aside, path)
        sync(path.parent)


@contextlib.contextmanager
def temporary(path: Path, parts: Sequence[Buffer]) -> Iterator[Path]:
    """Write a file beside `path`, wait for the disk, and give it to be moved there."""
    with _beside(path) as (aside, descriptor):
        try:
            for part in parts:
                _write_all(descriptor, part)
            os.fsync(descriptor)
        except OSError as error:  # a full disk, which a descriptor cannot name
            error.filename = str(path)
            raise
        yield aside


def is_temporary(name: str) -> bool:
    """Return whether a file of this name is being, or was being, written."""
    return name.startswith(".") and name.endswith(_SUFFIX)


def remove_if_left(path: Path) -> None:
    """Remove a file of `replacing` or `temporary` whose writer is dead."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        if _lock(descriptor):
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, and wait for the disk to know of them."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[tuple[Path, int]]:
    """Give a new file beside `path`, open, and remove it if it has not been moved.

    Its name is its own, however many write the same file. While it is written its
    writer holds its lock, which dies with the process: see `remove_if_left`.
    """
    aside, descriptor = _create_locked(path)
    try:
        try:
            yield aside, descriptor
        finally:
            os.close(descriptor)
    finally:
        aside.unlink(missing_ok=True)


def _create_locked(path: Path) -> tuple[Path, int]:
    """Return a new file beside `path`, and its open descriptor, which holds its lock.

    Whoever removes left files may lock this one before we do; then it takes another.
    """
    while True:
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_SUFFIX}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            descriptor = os.open(aside, flags, 0o666)
        except FileNotFoundError:
            make_folder(path.parent)
            continue
        if _lock(descriptor) and os.fstat(descriptor).st_nlink:
            return aside, descriptor
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_all(descriptor: int, part: Buffer) -> None:
    left = memoryview(part).cast("B")
    while left:
        # A longer write makes Linux 6.18 look for huge pages to keep it in, which costs
        # four times the processor's time on ext4.
        left = left[os.write(descriptor, left[:_BLOCK_BYTES]) :]
