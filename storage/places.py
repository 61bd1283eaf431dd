"""Places where artifacts lie: a local folder, or a prefix of a bucket."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import zarr.storage
from typing_extensions import Buffer
from zarr.storage import StoreLike

from storage import durable
from storage.buckets import BucketPlace, open_bucket
from storage.objects import Entry, Place, PlaceError

__all__ = ["BucketPlace", "Entry", "LocalPlace", "Place", "PlaceError", "open_place"]

# What file systems say that have no hard links.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP)


class LocalPlace:
    """A folder. Objects appear by rename, and have reached the disk before that."""

    def __init__(self, root: Path) -> None:
        """Name the folder; it is made with its first object."""
        self.root = root

    def __repr__(self) -> str:
        """Return the folder."""
        return f"LocalPlace({str(self.root)!r})"

    @property
    def url(self) -> str:
        """Return the folder's path."""
        return str(self.root)

    def put(self, name: str, *parts: Buffer) -> None:
        """Replace a file: temporary file, fsync, rename, fsync of the folder."""
        self.put_all({name: parts})

    def put_all(self, objects: Mapping[str, Sequence[Buffer]]) -> None:
        """Put several files, with one fsync for each folder at the end."""
        folders: dict[Path, None] = {}
        for name, parts in objects.items():
            path = self._at(name)
            with durable.temporary(path, parts) as aside:
                os.replace(aside, path)
            folders[path.parent] = None
        for folder in folders:
            durable.sync(folder)

    def create(self, name: str, *parts: Buffer) -> bool:
        """Put a file unless there is one; return whether there was none."""
        path = self._at(name)
        with durable.temporary(path, parts) as aside:
            try:
                os.link(aside, path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                # Who creates here holds the artifact's lock.
                if path.exists():
                    return False
                os.replace(aside, path)
        durable.sync(path.parent)
        return True

    def get(self, name: str) -> bytes:
        """Return the bytes of a file."""
        with _as_missing():
            return self._at(name).read_bytes()

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """Return the bytes from `start`, fewer than `length` if the file ends."""
        with _as_missing(), self._at(name).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def size(self, name: str) -> int | None:
        """Return the bytes of a file, None if there is none."""
        try:
            found = self._at(name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def list(self, prefix: str) -> list[Entry]:
        """Return every file below a folder, sorted; not those being written."""
        above = os.path.join(self.root, "")
        found = []
        for file in self._files(prefix):
            if not durable.is_temporary(file.name):
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    size = file.stat().st_size
                    found.append(Entry(file.path.removeprefix(above), size))
        return sorted(found)

    def delete(self, *names: str) -> None:
        """Remove files, and folders that this leaves empty."""
        for name in names:
            path = self._at(name)
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # the first that is not empty, or gone
                for folder in path.relative_to(self.root).parents[:-1]:
                    (self.root / folder).rmdir()

    def sweep(self, prefix: str) -> None:
        """Remove temporary files that no living process is writing."""
        for file in self._files(prefix):
            if durable.is_temporary(file.name):
                durable.remove_if_left(Path(file.path))

    def child(self, name: str) -> "LocalPlace":
        """Return the folder below this one."""
        return LocalPlace(self._at(name))

    def path(self, name: str) -> Path:
        """Return the path of a file."""
        return self._at(name)

    def zarr_store(self) -> StoreLike:
        """Return the folder as a store that plain Zarr reads."""
        return zarr.storage.LocalStore(self.root, read_only=True)

    def _at(self, name: str) -> Path:
        assert ".." not in name.split("/") and not name.startswith("/"), name
        return self.root / name

    def _files(self, prefix: str) -> Iterator["os.DirEntry[str]"]:
        folders = [str(self._at(prefix))]
        while folders:
            with (
                contextlib.suppress(FileNotFoundError, NotADirectoryError),
                os.scandir(folders.pop()) as entries,
            ):
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        yield entry


def open_place(where: str | Path) -> Place:
    """Return the place of a path, or of a URL such as `s3://bucket/prefix`.

    Credentials, regions and endpoints come from the environment (`AWS_*`, `GOOGLE_*`,
    `AZURE_*`). `memory://name` lives as long as the process.

    Raises:
        PlaceError: it is a URL of another kind, or the environment does not fit it.
    """
    if isinstance(where, str) and "://" in where:
        return open_bucket(where)
    return LocalPlace(Path(where))


@contextlib.contextmanager
def _as_missing() -> Iterator[None]:
    """Take a folder, and a name below a file, for a file that is not there."""
    try:
        yield
    except (NotADirectoryError, IsADirectoryError) as error:
        raise FileNotFoundError(
            errno.ENOENT, os.strerror(errno.ENOENT), error.filename
        ) from None
