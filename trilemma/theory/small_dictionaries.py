"""Fewer latents than concepts: which directions are kept, and what merging wins.

Derived here, for orthonormal concepts, any number of active latents, and codes that
may be negative: then the best directions are eigenvectors.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from trilemma.theory.supports import Supports


class SmallDictionary(NamedTuple):
    """Distortion of the best `d_sae` directions for more concepts than that."""

    monosemantic: float
    """Each direction is a concept: those of least energy are dropped."""
    polysemantic: float
    """Any directions: never above `monosemantic`, by the Schur-Horn theorem."""
    directions: Float64[np.ndarray, "d_sae concept"]
    """The best directions, as coefficients in the concepts; rows of length one."""

    @property
    def participation(self) -> Float64[np.ndarray, " d_sae"]:
        """How many concepts share each direction: 1 is monosemantic."""
        participation: Float64[np.ndarray, " d_sae"] = 1 / (self.directions**4).sum(1)
        return participation


def small_dictionary(supports: Supports, d_sae: int, *, bias: bool) -> SmallDictionary:
    """Return the least distortion of `d_sae` latents for the supports' concepts.

    The energies are `E[s s^T]`, or with a free decoder bias the covariance, which is
    zero between independent concepts: then a bias leaves no reason to merge them.
    The monosemantic loss is the sum of the least diagonal entries, the polysemantic
    one that of the least eigenvalues. One latent for two concepts stands at the angle
    `atan2(2 p12, p1 - p2) / 2` from the first, and loses
    `(p1 + p2)/2 - sqrt((p1 - p2)^2/4 + p12^2)`.
    """
    energy = supports.pairwise
    if bias:
        energy = energy - np.outer(supports.marginals, supports.marginals)
    num_dropped = max(supports.num_concepts - d_sae, 0)
    values, vectors = np.linalg.eigh(energy)
    return SmallDictionary(
        monosemantic=float(np.sort(energy.diagonal())[:num_dropped].sum()),
        polysemantic=float(values[:num_dropped].sum()),
        directions=vectors[:, num_dropped:].T[::-1],
    )
