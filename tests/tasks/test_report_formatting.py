"""Numbers and text as a page shows them."""

import pytest

from tasks.report import formatting
from tests.tasks.report_samples import scalar
from trilemma.metrics.scalar import Scalar


@pytest.mark.parametrize(
    ("value", "width", "text", "interval"),
    [
        (0.12345, 0.0123, "0.123", "[0.111, 0.136]"),
        (1234.5, 20.0, "1,234", "[1,214, 1,254]"),
        (0.5, None, "0.500", ""),
        (17.0, None, "17", ""),
        (0.0000123, None, "1.23e-05", ""),
        (None, None, formatting.MISSING, ""),
    ],
)
def test_digits_follow_the_interval(
    value: float | None, width: float | None, text: str, interval: str
) -> None:
    found = Scalar(**scalar(value, width=width))
    assert (formatting.value(found), formatting.interval(found)) == (text, interval)


def test_control_characters_become_visible() -> None:
    assert formatting.visible(" a\t\n\x00\u202e") == "·a→↵��"
