"""What a place is: named objects, each of them all there or not at all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from typing_extensions import Buffer
from zarr.storage import StoreLike


class PlaceError(ValueError):
    """A bucket that is not there, cannot be reached or does not let us in."""


class Entry(NamedTuple):
    """One object of a place."""

    name: str
    bytes: int


class Place(Protocol):
    """Named objects, each all there or not at all.

    Names are relative and have `/` between their parts. Whatever a bucket refuses is
    a `PlaceError`, from every method; a local folder raises `OSError`.
    """

    @property
    def url(self) -> str:
        """Return the path or URL, for messages and for `open_place`."""

    def put(self, name: str, *parts: Buffer) -> None:
        """Replace an object by these bytes, and wait until they are safe."""

    def put_all(self, objects: Mapping[str, Sequence[Buffer]]) -> None:
        """Put several objects, each at once, and wait until all are safe."""

    def create(self, name: str, *parts: Buffer) -> bool:
        """Put an object unless there is one; return whether there was none."""

    def get(self, name: str) -> bytes:
        """Return the bytes of an object.

        Raises:
            FileNotFoundError: there is none.
        """

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """Return the bytes from `start`, fewer than `length` if the object ends.

        Raises:
            FileNotFoundError: there is no such object.
        """

    def size(self, name: str) -> int | None:
        """Return the bytes of an object, None if there is none."""

    def list(self, prefix: str) -> list[Entry]:
        """Return every object below a folder ("" for all), sorted by name."""

    def delete(self, *names: str) -> None:
        """Remove objects; one that is not there is no error."""

    def sweep(self, prefix: str) -> None:
        """Remove what writers that were killed have left below a folder."""

    def child(self, name: str) -> "Place":
        """Return the place below this one."""

    def path(self, name: str) -> Path | None:
        """Return the local file of an object, None in a bucket."""

    def zarr_store(self) -> StoreLike:
        """Return the objects as a store that plain Zarr reads."""
