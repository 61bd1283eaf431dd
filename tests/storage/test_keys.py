"""The key of an artifact: everything that decides its bytes, and nothing else."""

import pytest

from storage import artifacts


def test_key_does_not_depend_on_the_order_of_settings():
    first = artifacts.key_of("lm", 1, {"a": 1, "b": 2}, {"p": "x", "q": "y"})
    second = artifacts.key_of("lm", 1, {"b": 2, "a": 1}, {"q": "y", "p": "x"})
    assert first == second


@pytest.mark.parametrize(
    "change",
    [
        ("corpus", 1, {"a": 1}, {}),
        ("lm", 2, {"a": 1}, {}),
        ("lm", 1, {"a": 2}, {}),
        ("lm", 1, {"a": 1}, {"p": "x"}),
    ],
)
def test_key_depends_on_everything_that_decides_the_bytes(change):
    assert artifacts.key_of(*change) != artifacts.key_of("lm", 1, {"a": 1}, {})
