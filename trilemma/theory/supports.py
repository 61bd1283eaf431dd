"""Which concepts are present together, and how often: what the theory reasons about.

    from trilemma.theory import rate_tax
    from trilemma.theory.supports import Supports, pair

    toy = pair(0.3, 0.2, 0.05)             # P(first), P(second), P(both)
    many = independent([toy] * 8)          # sixteen concepts in eight pairs
    own = Supports.of({(): 0.5, (0,): 0.2, (0, 1): 0.2, (1, 2): 0.1}, num_concepts=3)
    seen = counted(active)                 # the sets in a sample of rows
    rate_tax.rate_tax(many).tax

A sample draws a set S of concepts, and its activation is the sum of their directions,
which are orthogonal and of length one (Mencattini, Montagna and Locatello 2026,
section 2). Functions of `trilemma.theory` take a `Supports` and hold for it exactly;
over `counted(active)` they hold for that sample, so nothing remains but rounding.
"""

import functools
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

_LEAST = -1e-12
"""A probability may fall this far below zero by rounding."""


@dataclass(frozen=True)
class Supports:
    """A distribution over sets of concepts, set by set."""

    present: Bool[np.ndarray, "support concept"]
    """Which concepts each set holds; no set stands twice."""
    probability: Float64[np.ndarray, " support"]
    """How likely each set is; they sum to one."""

    @classmethod
    def of(
        cls, table: Mapping[Collection[int], float], *, num_concepts: int
    ) -> "Supports":
        """Return the distribution of a table: sets of concepts, counted from 0.

        Its keys are tuples or frozensets; the probabilities must sum to one.
        """
        present = np.zeros((len(table), num_concepts), dtype=bool)
        for row, concepts in enumerate(table):
            outside = [c for c in concepts if not 0 <= c < num_concepts]
            if outside:
                raise ValueError(
                    f"supports: found concept {outside[0]}; num_concepts is "
                    f"{num_concepts}, so they are 0 to {num_concepts - 1}"
                )
            present[row, list(concepts)] = True
        probability = np.array(list(table.values()), dtype=np.float64)
        if not math.isclose(total := float(probability.sum()), 1, abs_tol=1e-9):
            raise ValueError(
                f"supports: found probabilities that sum to {total:.6g}; they must "
                "sum to 1, the empty set among them"
            )
        if (least := float(probability.min())) < _LEAST:
            raise ValueError(
                f"supports: found probability {least:.6g}; none may be below 0"
            )
        return _merged(present, probability.clip(0))

    @property
    def num_concepts(self) -> int:
        """How many concepts there are, m in the papers."""
        return int(self.present.shape[1])

    @functools.cached_property
    def sizes(self) -> Int64[np.ndarray, " support"]:
        """How many concepts each set holds: |S|."""
        sizes: Int64[np.ndarray, " support"] = self.present.sum(1)
        return sizes

    @functools.cached_property
    def pairwise(self) -> Float64[np.ndarray, "concept concept"]:
        """How often two concepts are present together, `p_ij`; `p_i` on the diagonal.

        This is `E[s s^T]` with s the indicator of S.
        """
        present = self.present.astype(np.float64)
        return present.T @ (self.probability[:, None] * present)

    @property
    def marginals(self) -> Float64[np.ndarray, " concept"]:
        """How often each concept is present: `p_i`."""
        return self.pairwise.diagonal()

    def mean(self, values: Float64[np.ndarray, " support"]) -> float:
        """Return the expectation of a number that each set has."""
        return float(self.probability @ values)


def pair(p1: float, p2: float, p12: float) -> Supports:
    """Return two concepts by their marginals and how often both are present."""
    return Supports.of(
        {(): 1 - p1 - p2 + p12, (0,): p1 - p12, (1,): p2 - p12, (0, 1): p12},
        num_concepts=2,
    )


def independent(parts: Sequence[Supports]) -> Supports:
    """Return blocks of concepts side by side, each drawn without regard to the others.

    The table holds the product of the blocks' sets: eight pairs have 65,536.
    """
    choices = itertools.product(*(range(len(part.probability)) for part in parts))
    chosen = np.array(list(choices)).reshape(-1, len(parts))
    present = [part.present[chosen[:, i]] for i, part in enumerate(parts)]
    probability = [part.probability[chosen[:, i]] for i, part in enumerate(parts)]
    return Supports(np.concatenate(present, 1), np.prod(probability, axis=0))


def counted(active: Bool[np.ndarray, "row concept"]) -> Supports:
    """Return the distribution of the sets in a sample, each row counted once."""
    return _merged(active, np.full(len(active), 1 / len(active)))


def _merged(
    present: Bool[np.ndarray, "row concept"], probability: Float64[np.ndarray, " row"]
) -> Supports:
    """Return the distribution in which rows of the same set have become one."""
    sets, which = np.unique(present, axis=0, return_inverse=True)
    return Supports(sets, np.bincount(which.reshape(-1), probability, len(sets)))
