"""Files between this machine and a place: sent, brought here, and read to be checked.

Whatever their size, they pass through memory in blocks, several files at a time.
"""

import contextlib
import hashlib
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from typing_extensions import Buffer

from storage import durable
from storage.places import Place

_BLOCK_BYTES = 8 << 20
_AT_ONCE = 8
_SHOWN = 12


class Known(Protocol):
    """What a manifest says of a file."""

    @property
    def bytes(self) -> int:
        """Return the size."""

    @property
    def sha256(self) -> str:
        """Return the hash, in hexadecimal."""


def add(place: Place, name: str, parts: Iterable[Buffer], file: Known) -> str | None:
    """Put an object; return one line if a bucket has it already, with other bytes.

    A bucket has no lock, so there nothing is replaced. A folder is locked.
    """
    if place.path(name) is not None:
        place.put(name, *parts)
        return None
    if place.create(name, *parts):
        return None
    digest = hashlib.sha256()
    for block in _blocks(place, name, place.size(name) or 0):
        digest.update(block)
    if digest.hexdigest() == file.sha256:
        return None
    return (
        f"{place.url}/{name}: another run has written other bytes here, of SHA-256 "
        f"{digest.hexdigest()[:_SHOWN]} instead of {file.sha256[:_SHOWN]}; delete "
        f"{place.url} or use the same libraries, and run again"
    )


def add_all(
    place: Place,
    objects: Mapping[str, Sequence[Buffer]],
    files: Mapping[str, Known],
) -> list[str]:
    """Put several objects; return one line for each as `add` does."""
    if all(place.path(name) is not None for name in objects):
        place.put_all(objects)
        return []

    def send(name: str) -> str | None:
        return add(place, name, objects[name], files[name])

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [fault for fault in pool.map(send, objects) if fault is not None]


def upload(
    folder: Path, place: Place, names: Sequence[str], files: Mapping[str, Known]
) -> list[str]:
    """Put files of a folder in a place under the same names; not those that are it.

    Return one line for each as `add` does.
    """
    away = [name for name in names if place.path(name) != folder / name]

    def send(name: str) -> str | None:
        with _mapped(folder / name) as data:
            return add(place, name, _slices(data), files[name])

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [fault for fault in pool.map(send, away) if fault is not None]


def download(place: Place, folder: Path, files: Mapping[str, Known]) -> list[str]:
    """Bring files here; return one line for each that is not as it should be.

    Such a file is not kept.
    """

    def bring(name: str) -> str | None:
        path = folder / name
        durable.make_folder(path.parent)
        try:
            with durable.replacing(path) as aside, aside.open("wb") as file:
                for block in _checked(place, name, files[name]):
                    file.write(block)
        except _FaultError as fault:
            return str(fault)
        return None

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [fault for fault in pool.map(bring, files) if fault is not None]


def check(
    place: Place,
    files: Mapping[str, Known],
    *,
    threads: int,
    advance: Callable[[int], None],
) -> list[str]:
    """Return one line for each file that is not as it should be, reading all bytes.

    `advance` is called from several threads.
    """
    names = sorted(files)

    def lines(first: int) -> list[str]:
        found = []
        for name in names[first::threads]:
            try:
                for block in _checked(place, name, files[name]):
                    advance(len(block))
            except _FaultError as fault:
                found.append(str(fault))
            except OSError as error:
                why = error.strerror or type(error).__name__
                found.append(f"{place.url}/{name}: cannot be read ({why})")
        return found

    with ThreadPoolExecutor(threads) as pool:
        return sorted(line for part in pool.map(lines, range(threads)) for line in part)


class _FaultError(Exception):
    """What is wrong with a file, in one line."""


def _checked(place: Place, name: str, file: Known) -> Iterator[bytes]:
    """Yield the blocks of a file, and raise at its end if they are not the right ones.

    Raises:
        _FaultError: it is missing, or has another size or hash.
    """
    where = f"{place.url}/{name}"
    size = place.size(name)
    if size is None:
        raise _FaultError(f"{where}: missing")
    if size != file.bytes:
        raise _FaultError(f"{where}: {size} bytes instead of {file.bytes}")
    digest = hashlib.sha256()
    for block in _blocks(place, name, size):
        digest.update(block)
        yield block
    if digest.hexdigest() != file.sha256:
        raise _FaultError(f"{where}: its bytes have changed")


def _blocks(place: Place, name: str, size: int) -> Iterator[bytes]:
    for start in range(0, size, _BLOCK_BYTES):
        yield place.get_range(name, start, _BLOCK_BYTES)


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    if not path.stat().st_size:
        yield memoryview(b"")
        return
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        memoryview(data) as view,
    ):
        yield view


def _slices(data: memoryview) -> Iterable[memoryview]:
    for start in range(0, len(data), _BLOCK_BYTES):
        yield data[start : start + _BLOCK_BYTES]
