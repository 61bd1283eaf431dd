"""What has been seen is known, at sixteen bytes each."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trilemma.duplicates import DIGEST, Seen, digest

# Few enough to come again, and some that end in zero bytes.
digests = st.integers(0, 40).map(lambda i: bytes([i % 7]) * 8 + bytes([i % 2, i]) * 4)


@given(st.lists(digests, unique=True), st.lists(digests))
@settings(deadline=None)
def test_it_tells_new_from_old_as_a_set_does(before, added):
    seen, reference = Seen(np.array(before, DIGEST)), set(before)
    for one in added:
        assert seen.add(one) == (one not in reference)
        reference.add(one)
        assert len(seen) == len(reference)


def test_many_are_sorted_in_and_still_known():
    many = [digest(str(i).encode()) for i in range(50_000)]
    seen = Seen(np.array([], DIGEST))
    assert all(seen.add(one) for one in many)
    assert not any(seen.add(one) for one in many)


def test_what_was_kept_in_a_file_is_known_again():
    many = [digest(str(i).encode()) for i in range(1000)]
    seen = Seen(np.frombuffer(b"".join(many), DIGEST))
    assert not any(seen.add(one) for one in many)
    assert seen.add(digest(b"another"))
