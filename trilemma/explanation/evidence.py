"""Evidence about a latent: windows where it fires, and where it verifiably does not.

Every window lies inside one segment, shows its token at a place drawn uniformly, and
masked rows count as silent in it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64

from trilemma.explanation.rows import Rows

NUM_STRATA = 5
"""Parts of equal size into which a latent's firings are cut, by activation."""
_BINS_PER_DECADE = 4


class Example(NamedTuple):
    """A window of text, and how strongly the latent fired along it."""

    group: str
    """`top`, `stratum 1` (the strongest) to `stratum 5`, `silent`, `same_token`."""
    row: int
    """The row that the window was chosen for."""
    start: int
    """First row of the window."""
    stop: int
    """End of the window."""


class Group(NamedTuple):
    """What stood behind a group of examples."""

    name: str
    low: float | None
    """Least activation of its rows; None if there are none."""
    high: float | None
    """Largest activation of its rows."""
    num_rows: int
    """Rows that an example could have been chosen for."""
    num_available: int
    """Documents among them: at most one example is taken from each."""


class Histogram(NamedTuple):
    """Activations in bins of equal width in their logarithm, zeros apart."""

    edges: tuple[float, ...]
    """One more than counts; powers of ten in quarters, the same for every latent."""
    counts: tuple[int, ...]
    zero: int
    """Unmasked rows on which the latent is silent."""


@dataclass(frozen=True, repr=False)
class Evidence:
    """All that an explainer or a scorer may know of one latent."""

    latent: int
    rows: Rows
    acts: Float32[np.ndarray, "row"]
    """Activations; 0 on masked rows."""
    examples: tuple[Example, ...]
    groups: tuple[Group, ...]
    histogram: Histogram

    def __repr__(self) -> str:
        """Return the counts that one wants to see."""
        return (
            f"Evidence(latent {self.latent}, {np.count_nonzero(self.acts):,} firings, "
            f"{len(self.examples)} examples)"
        )


def collect(
    rows: Rows,
    acts: Float32[np.ndarray, "row"],
    *,
    latent: int,
    window: int,
    num_examples: int,
    seed: int,
) -> Evidence:
    """Return the evidence about a latent, a function of the rows, the latent and seed.

    `acts` holds what the SAE gives on every row, masked ones included: a silent window
    is one in which even those are zero.
    """
    counted = np.where(rows.is_counted, acts, 0).astype(np.float32)
    generator = np.random.default_rng([seed, latent])
    windows = _draw_windows(rows, window, generator)
    shuffled = generator.permutation(len(acts))
    examples: list[Example] = []
    groups: list[Group] = []
    pools = _pools(rows, acts, counted, windows=windows, shuffled=shuffled)
    for name, pool in pools:
        used = [example.row for example in examples]
        fresh = pool[~np.isin(pool, used)]
        chosen = _one_per_document(rows, fresh)[:num_examples]
        examples += [
            Example(name, row, int(windows.start[row]), int(windows.stop[row]))
            for row in chosen
        ]
        groups.append(_group(name, rows, counted, pool))
    return Evidence(
        latent,
        rows,
        counted,
        tuple(examples),
        tuple(groups),
        histogram(counted[rows.is_counted]),
    )


def histogram(acts: Float32[np.ndarray, "row"]) -> Histogram:
    """Return the histogram of a latent's activations."""
    positive = acts[acts > 0].astype(np.float64)
    zero = len(acts) - len(positive)
    if len(positive) == 0:
        return Histogram((), (), zero)
    low = math.floor(math.log10(positive.min()) * _BINS_PER_DECADE)
    high = math.floor(math.log10(positive.max()) * _BINS_PER_DECADE) + 1
    edges = [10 ** (step / _BINS_PER_DECADE) for step in range(low, high + 1)]
    index = np.searchsorted(edges, positive, side="right") - 1
    # A power of ten may round to either side of its edge.
    counts = np.bincount(np.clip(index, 0, high - low - 1), minlength=high - low)
    return Histogram(tuple(edges), tuple(counts.tolist()), zero)


class _Windows(NamedTuple):
    start: Int64[np.ndarray, "row"]
    stop: Int64[np.ndarray, "row"]


def _draw_windows(rows: Rows, window: int, generator: np.random.Generator) -> _Windows:
    """Return a window for each row, at a place drawn uniformly among those that fit."""
    index = np.arange(len(rows.token))
    first = np.maximum(rows.start, index - window + 1)
    last = np.maximum(first, np.minimum(index, rows.stop - window))
    start = generator.integers(first, last, endpoint=True)
    return _Windows(start, np.minimum(start + window, rows.stop))


def _pools(
    rows: Rows,
    raw: np.ndarray,
    acts: np.ndarray,
    *,
    windows: _Windows,
    shuffled: np.ndarray,
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each group's name and the rows it may show, in the order of choice."""
    firing = np.flatnonzero(acts > 0)
    strongest = firing[np.argsort(-acts[firing], kind="stable")]
    yield "top", strongest
    rank = np.full(len(acts), -1)
    rank[strongest] = np.arange(len(strongest)) * NUM_STRATA // max(len(strongest), 1)
    for stratum in range(NUM_STRATA):
        yield f"stratum {stratum + 1}", shuffled[rank[shuffled] == stratum]
    is_silent = rows.is_counted & _is_silent(raw, windows)
    yield "silent", shuffled[is_silent[shuffled]]
    if len(firing) == 0:
        yield "same_token", firing
        return
    mass = np.bincount(rows.token[firing], weights=acts[firing].astype(np.float64))
    is_same = is_silent & (rows.token == np.argmax(mass))
    yield "same_token", shuffled[is_same[shuffled]]


def _is_silent(raw: np.ndarray, windows: _Windows) -> Bool[np.ndarray, "row"]:
    """Return the rows in whose window the latent is zero throughout."""
    before = np.append(0, np.cumsum(raw != 0))
    silent: np.ndarray = before[windows.stop] == before[windows.start]
    return silent


def _one_per_document(rows: Rows, pool: np.ndarray) -> list[int]:
    """Return the pool's first row from each document, in the pool's order."""
    _, first = np.unique(rows.document[pool], return_index=True)
    chosen: list[int] = pool[np.sort(first)].tolist()
    return chosen


def _group(name: str, rows: Rows, acts: np.ndarray, pool: np.ndarray) -> Group:
    values = acts[pool]
    return Group(
        name,
        float(values.min()) if len(pool) else None,
        float(values.max()) if len(pool) else None,
        len(pool),
        len(np.unique(rows.document[pool])),
    )
