"""Which texts have come before, at sixteen bytes each."""

import hashlib

import numpy as np
import numpy.typing as npt

_BYTES = 16
DIGEST = np.dtype(f"S{_BYTES}")
# Sorting in a new digest costs as much as there are old ones, so it waits for some.
_FEWEST_RECENT = 1 << 14
_OLD_PER_RECENT = 16


def digest(text: bytes) -> bytes:
    """Return what a text is known by."""
    return hashlib.blake2b(text, digest_size=_BYTES).digest()


class Seen:
    """A set of digests in a sorted array; the latest few wait beside it."""

    def __init__(self, digests: npt.NDArray[np.bytes_]) -> None:
        self._old = np.sort(digests)
        self._recent: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._old) + len(self._recent)

    def add(self, digest: bytes) -> bool:
        """Add a digest; return whether it was not there."""
        if digest in self._recent:
            return False
        index = int(np.searchsorted(self._old, np.array(digest, DIGEST)))
        # As bytes of the array: a single element would lose its trailing zeros.
        if self._old[index : index + 1].tobytes() == digest:
            return False
        self._recent.add(digest)
        if len(self._recent) > max(_FEWEST_RECENT, len(self._old) // _OLD_PER_RECENT):
            self._old = np.concatenate([self._old, np.array([*self._recent], DIGEST)])
            # Timsort, which merges what is sorted already.
            self._old.sort(kind="stable")
            self._recent.clear()
        return True
