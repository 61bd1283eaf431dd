"""The home that holds all artifacts, a folder or a bucket, and the room left in it."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from storage.places import Place, open_place

VARIABLE = "TRILEMMA_HOME"
CACHE_VARIABLE = "TRILEMMA_CACHE"
_DEFAULT = "artifacts"
_RESERVE_BYTES = 64 << 20


class HomeError(ValueError):
    """The home cannot be used."""


class Home(NamedTuple):
    """Where artifacts are kept, and where this machine works on them."""

    path: Path
    """The folder of all artifacts; beside a bucket, of work and of what was read."""
    bucket: Place | None = None
    """Where all artifacts are kept, if not in `path`."""


def find() -> Home:
    """Return the home: `$TRILEMMA_HOME`, or `artifacts` in the working directory.

    It may be a bucket's URL. Work then happens below `$TRILEMMA_CACHE`, by default
    `~/.cache/trilemma`, in a folder of the bucket's own.

    Raises:
        ValueError: it is a URL of something else.
    """
    value = os.environ.get(VARIABLE) or _DEFAULT
    if "://" not in value:
        return Home(Path(value).absolute())
    # Anywhere: a secret may have a "/", behind which no host is looked for.
    if "@" in value or "?" in value:
        raise HomeError(
            f"{VARIABLE}: found credentials in the URL; set them in environment "
            "variables, and name only the bucket and a prefix"
        )
    bucket = open_place(value)
    cache = os.environ.get(CACHE_VARIABLE)
    folder = Path(cache).absolute() if cache else Path.home() / ".cache" / "trilemma"
    own = hashlib.sha256(bucket.url.encode()).hexdigest()[:16]
    return Home(folder / own, bucket)


def prepare(home: Home) -> None:
    """Make the home if need be; check that it can be written, or a bucket be read.

    Raises:
        HomeError: the folder cannot be made or written.
        storage.places.PlaceError: the bucket cannot be used.
    """
    probe = home.path / f".write-{os.getpid()}"
    try:
        home.path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        variable = VARIABLE if home.bucket is None else CACHE_VARIABLE
        raise HomeError(
            f"{home.path}: cannot be written ({error.strerror}); set {variable} to a "
            "folder that can"
        ) from error
    if home.bucket is not None:
        # Nothing lies there, so this costs one request however much the bucket holds.
        home.bucket.list(probe.name)


def check_room(home: Home, needed_bytes: int) -> None:
    """Check that a stage's bytes fit on this machine, with a little to spare.

    Raises:
        HomeError: they do not.
    """
    free = shutil.disk_usage(home.path).free
    if free < needed_bytes + _RESERVE_BYTES:
        variable = VARIABLE if home.bucket is None else CACHE_VARIABLE
        raise HomeError(
            f"{home.path}: {free / 2**20:,.0f} MiB free, about "
            f"{(needed_bytes + _RESERVE_BYTES) / 2**20:,.0f} MiB needed; free some, or "
            f"set {variable} to a larger disk"
        )
