"""The places on which storage is tested: a folder, memory, and S3 on loopback."""

import secrets

import pytest

from storage.places import open_place


@pytest.fixture(params=["local", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def place(request, tmp_path):
    """Return an empty place of each kind."""
    if request.param == "s3":
        return open_place(request.getfixturevalue("s3"))
    if request.param == "memory":
        return open_place(f"memory://{secrets.token_hex(4)}/some/prefix")
    return open_place(tmp_path / "place")
