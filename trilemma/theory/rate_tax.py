"""What monosemanticity costs in rate: active latents, or their L1 norm.

That a rate tax exists is a result of Mencattini, Montagna and Locatello 2026 (Lemma 1
and Theorem 2, arXiv 2605.14694). Their formulas could not be recovered; those below
are derived here, for concepts that are orthonormal directions and a decoder that is
linear without a bias.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from trilemma import matching
from trilemma.theory.supports import Supports


class RateTax(NamedTuple):
    """Mean number of active latents of codes that reconstruct exactly."""

    monosemantic: float
    """`E|S|`: one latent for each concept that is present."""
    polysemantic: float
    """`P(S is not empty)`: a latent of its own for each set."""
    lower: float
    """`(2/m) sum_{i<j} p_ij`, which the tax is never below."""
    upper: float
    """`sum_{i<j} p_ij`, which it is never above, and equals where `|S| <= 2`."""

    @property
    def tax(self) -> float:
        """`E (|S| - 1)_+`: what a monosemantic code pays beyond the cheapest."""
        return self.monosemantic - self.polysemantic


def rate_tax(supports: Supports) -> RateTax:
    """Return what exact codes cost with and without monosemanticity (derived here).

    The bounds hold because `2 C(s, 2) / m <= s - 1 <= C(s, 2)` for `1 <= s <= m`.
    """
    together = (supports.pairwise.sum() - supports.marginals.sum()) / 2
    return RateTax(
        monosemantic=float(supports.marginals.sum()),
        polysemantic=supports.mean((supports.sizes > 0).astype(np.float64)),
        lower=float(2 / supports.num_concepts * together),
        upper=float(together),
    )


def merging_saving(supports: Supports, pairs: Sequence[tuple[int, int]]) -> float:
    """Return by how much merged latents lower the mean number that fires.

    Each pair (i, j) adds a latent with decoder row `v_i + v_j` to a monosemantic
    dictionary. It stands in for two latents where both concepts are present, so one
    pair saves `p_ij` and disjoint pairs save the sum of theirs. Pairs that overlap
    save the mean size of a maximum matching among those that S holds (derived here).
    """
    chosen = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    held = supports.present[:, chosen[:, 0]] & supports.present[:, chosen[:, 1]]
    kinds, which = np.unique(held, axis=0, return_inverse=True)
    saved = np.array([_matching_size(chosen[kind]) for kind in kinds])
    return supports.mean(saved[which.reshape(-1)])


def l1_saving(supports: Supports, first: int, second: int) -> float:
    """Return by how much one merged latent of unit norm lowers the mean L1 norm.

    Where both concepts are present, activations 1 and 1 become one of `sqrt 2`, so it
    saves `2 - sqrt 2 = 0.586` of `p_ij` (derived here). Times lambda it is the fall of
    an L1 penalty.
    """
    return (2 - math.sqrt(2)) * float(supports.pairwise[first, second])


def _matching_size(pairs: Int64[np.ndarray, "pair 2"]) -> float:
    found = matching.heaviest(pairs, np.ones(len(pairs)))
    return float(found.taken.sum())
