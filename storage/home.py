"""The folder that holds all artifacts, and the room left in it."""

import os
import shutil
from pathlib import Path

VARIABLE = "TRILEMMA_HOME"
_DEFAULT = "artifacts"
_RESERVE_BYTES = 64 << 20


class HomeError(ValueError):
    """The home cannot be used."""


def find() -> Path:
    """Return the home: `$TRILEMMA_HOME`, or `artifacts` in the working directory."""
    value = os.environ.get(VARIABLE) or _DEFAULT
    if "://" in value:
        raise HomeError(
            f"{VARIABLE}: found {value!r}; artifacts are kept in a local folder"
        )
    return Path(value).absolute()


def prepare(home: Path) -> None:
    """Make the home if need be, and check that it can be written.

    Raises:
        HomeError: it cannot be made or written.
    """
    probe = home / f".write-{os.getpid()}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise HomeError(
            f"{home}: cannot be written ({error.strerror}); set {VARIABLE} to a folder "
            "that can"
        ) from error


def check_room(home: Path, needed_bytes: int) -> None:
    """Check that a stage's bytes fit, with a little to spare.

    Raises:
        HomeError: they do not.
    """
    free = shutil.disk_usage(home).free
    if free < needed_bytes + _RESERVE_BYTES:
        raise HomeError(
            f"{home}: {free / 2**20:,.0f} MiB free, about "
            f"{(needed_bytes + _RESERVE_BYTES) / 2**20:,.0f} MiB needed; free some, or "
            f"set {VARIABLE} to a larger disk"
        )
