"""Memory that a stage uses again: no page is asked of the kernel twice."""

import contextlib
import ctypes
from collections.abc import Iterator

# Of glibc's malloc.h: parameters, what keeps memory, and what malloc starts with.
_MMAP_MAX, _TRIM_THRESHOLD = -4, -1
_KEEP = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1}
_USUAL = {_MMAP_MAX: 65_536, _TRIM_THRESHOLD: 128 << 10}


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Let freed memory stay with this process; at the end of the block it goes back.

    glibc maps a large tensor afresh each time, and the kernel clears every page of it
    at its first touch: with 400 MB of pre-activations, a third of a training step; of a
    small LM's forward pass on two cores, a sixth (benchmarks/RESULTS.md). For the main
    thread; others keep blocks of up to 64 MB. Without effect where malloc is not
    glibc's.
    """
    library = _glibc()
    if library is None:
        yield
        return
    _set(library, _KEEP)
    try:
        yield
    finally:
        _set(library, _USUAL)
        library.malloc_trim(0)


def give_back() -> None:
    """Let what is free, but lies between blocks in use, go back to the kernel.

    For loops over batches of unequal size: what nothing fits into any more adds up
    where memory is kept.
    """
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """Return glibc, None where malloc is another's."""
    library = ctypes.CDLL(None)
    has_both = hasattr(library, "mallopt") and hasattr(library, "malloc_trim")
    return library if has_both else None


def _set(library: ctypes.CDLL, values: dict[int, int]) -> None:
    for parameter, value in values.items():
        library.mallopt(parameter, value)
