"""One writer for each artifact, by kernel locks that die with their process."""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

_POLL_SECONDS = 0.2
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


class LockError(ValueError):
    """The file system cannot lock files."""


@contextlib.contextmanager
def holding(paths: Sequence[Path], on_wait: Callable[[Path], None]) -> Iterator[None]:
    """Hold the locks of several files, taken in sorted order so that none deadlocks.

    `on_wait` is called once for each lock that another process holds.

    Raises:
        LockError: the file system has no locks.
    """
    with contextlib.ExitStack() as stack:
        for path in sorted(set(paths)):
            stack.enter_context(_held(path, on_wait))
        yield


def is_held(path: Path) -> bool:
    """Return whether some process holds the lock."""
    if not path.exists():
        return False
    descriptor = os.open(path, os.O_RDWR)
    try:
        return not _try(descriptor, path)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _held(path: Path, on_wait: Callable[[Path], None]) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _try(descriptor, path):
            on_wait(path)
            while not _try(descriptor, path):
                time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _try(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise LockError(
                f"{path.parent}: this file system has no file locks; set TRILEMMA_HOME "
                "(TRILEMMA_CACHE beside a bucket) to a local disk"
            ) from error
        raise
    return True
