"""Where the names of points stand in a plot, so that they cover each other least."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Of Plotly's default font, 12 px; a name is rarely wider.
_CHARACTER, _HEIGHT = 6.5, 14.0
_MARKER = 6.0  # from a point's middle
PLACES = {
    "top right": (0, 0),
    "bottom right": (0, -1),
    "top left": (-1, 0),
    "bottom left": (-1, -1),
    "middle right": (0, -0.5),
    "middle left": (-1, -0.5),
    "top center": (-0.5, 0),
    "bottom center": (-0.5, -1),
}
"""In Plotly's words: how many of its sizes a name starts from its point, x and y."""


class Box(NamedTuple):
    """What a name or a point covers, in pixels; y grows upwards."""

    left: float
    bottom: float
    right: float
    top: float

    def shared(self, other: "Box") -> float:
        """Return the area that both cover, in square pixels."""
        across = min(self.right, other.right) - max(self.left, other.left)
        up = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(across, 0.0) * max(up, 0.0)


def choose(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    names: Sequence[str],
    *,
    width: float,
    height: float,
) -> list[str]:
    """Return for each point the place of its name beside it, one of `PLACES`.

    The points are all that a plot of `width` times `height` pixels shows, and span it;
    those with an empty name have none. Names are placed in turn, each where it covers
    least of the names before it, and then of all points; of equals the first.
    """
    points = list(zip(_pixels(x, width), _pixels(y, height), strict=True))
    markers = [
        Box(left - _MARKER, low - _MARKER, left + _MARKER, low + _MARKER)
        for left, low in points
    ]
    found: list[str] = []
    taken: list[Box] = []
    for (left, low), name in zip(points, names, strict=True):
        boxes = {place: box(left, low, name, place) for place in PLACES}
        place = min(
            boxes,
            key=lambda p: [
                sum(map(boxes[p].shared, covered)) for covered in (taken, markers)
            ],
        )
        if name:
            taken.append(boxes[place])
        found.append(place)
    return found


def _pixels(values: npt.ArrayLike, size: float) -> npt.NDArray[np.float64]:
    """Return where values lie on an axis of so many pixels."""
    array: npt.NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    least, most = array.min(initial=np.inf), array.max(initial=-np.inf)
    pixels: npt.NDArray[np.float64] = (array - least) / ((most - least) or 1.0) * size
    return pixels


def box(x: float, y: float, name: str, place: str) -> Box:
    """Return what a name covers: beside the marker, as Plotly puts it."""
    width = _CHARACTER * len(name)
    across, up = PLACES[place]
    left = x + across * width + _MARKER * (1 + 2 * across)
    bottom = y + up * _HEIGHT + _MARKER * (1 + 2 * up)
    return Box(left, bottom, left + width, bottom + _HEIGHT)
