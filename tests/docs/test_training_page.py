"""The page on training tells the numbers that the code has."""

from pathlib import Path

from tasks import hooks
from trilemma import geometric_median

PAGE = " ".join(Path("docs/training.md").read_text().split())


def test_the_page_tells_how_the_geometric_median_is_found():
    assert f"the first {hooks.MEDIAN_ROWS:,} training rows" in PAGE
    tolerance = f"{geometric_median.TOLERANCE:.0e}".replace("e-0", "e-")
    assert f"shorter than {tolerance} of the mean distance" in PAGE
    assert f"after {geometric_median.MAX_ITERATIONS} steps" in PAGE
