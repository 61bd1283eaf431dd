"""Two concepts, two latents, one active at a time: sparse, and wrong.

The mixing weight and the worked point are those of Chanin and Garriga-Alonso 2025
(Sparse but wrong, arXiv 2508.16560), who study two correlated features; the distortions
are derived here. Concepts are orthonormal and the decoder has no bias.
"""

import math
from typing import NamedTuple


class TwoLatents(NamedTuple):
    """The best two latents of which one may fire (k = 1)."""

    monosemantic: float
    """Distortion of the true dictionary: it loses one concept where both are present.

    A third latent along the sum of both would lose nothing.
    """
    polysemantic: float
    """Distortion of the best two directions: one pure, one mixed."""
    pure_weight: float
    """Share alpha of the less frequent concept in the mixed latent.

    Its direction is `alpha f_1 + (1 - alpha) f_2`, where the other latent stays on
    `f_2`, the concept that is more often present alone; 1 is monosemantic.
    """

    @property
    def tax(self) -> float:
        """What monosemanticity costs: about `q^2 / P` where both are rarely present."""
        return self.monosemantic - self.polysemantic


def two_latents(*, only_first: float, only_second: float, both: float) -> TwoLatents:
    """Return the optimum by how often each concept is present alone, or both are.

    With `P` the lesser of the two and `q = both` the distortion is
    `(P + 2q - sqrt(P^2 + 4q^2)) / 2`, and alpha is `(P - 2q + sqrt(P^2 + 4q^2)) / 2P`.
    Both are written so that small numbers do not cancel.
    """
    rarer, q = min(only_first, only_second), both
    root = math.hypot(rarer, 2 * q)
    whole = rarer + root + 2 * q
    if q == 0:
        return TwoLatents(0.0, 0.0, 1.0)
    return TwoLatents(
        monosemantic=q,
        polysemantic=2 * rarer * q / whole,
        pure_weight=(rarer + root) / whole,
    )


def mixed(pure_weight: float, *, only_rarer: float, both: float) -> float:
    """Return the distortion if the mixed latent has weight alpha on the rarer concept.

    Its slope at alpha = 1 is `2 q`, so wherever both concepts are ever present the
    true dictionary is not even a local optimum (Chanin and Garriga-Alonso 2025; the
    formula is derived here).
    """
    length = math.hypot(pure_weight, 1 - pure_weight)
    rarer, other = pure_weight / length, (1 - pure_weight) / length
    return only_rarer * (1 - rarer**2) + both * (1 - 2 * rarer * other)
