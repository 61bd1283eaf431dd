"""What monosemanticity costs in distortion, at a budget per sample or on average.

That monosemanticity costs distortion is a result of Mencattini, Montagna and Locatello
2026 (arXiv 2605.14694). Their formulas could not be recovered; those below are derived
here, for orthonormal concepts, `D = E|x - x_hat|^2` and a decoder without a bias.
"""

import numpy as np
from jaxtyping import Float64

from trilemma.theory.supports import Supports


def at_budget(
    supports: Supports,
    k: int,
    *,
    norms: Float64[np.ndarray, " concept"] | None = None,
) -> float:
    """Return the least distortion of a monosemantic code of at most k latents.

    It is `E (|S| - k)_+` for concepts of norm one; else the k longest concepts of S
    are kept. A free dictionary has a latent for each set and so none from k = 1 on:
    the whole is the tax of monosemanticity (derived here).
    """
    energy = np.ones(supports.num_concepts) if norms is None else norms**2
    present = np.sort(supports.present * energy, axis=1)
    dropped = present[:, : max(supports.num_concepts - k, 0)]
    return supports.mean(dropped.sum(1))


def monosemantic(supports: Supports, rate: float) -> float:
    """Return the least distortion of a monosemantic code that fires `rate` on average.

    Each latent that fires removes 1, so it is `(E|S| - rate)_+` (derived here).
    """
    return max(float(supports.marginals.sum()) - rate, 0.0)


def polysemantic(supports: Supports, rate: float) -> float:
    """Return the least distortion of any code that fires `rate` latents on average.

    A latent for each set removes |S| by firing once, so the largest sets are served
    first: a convex, piecewise linear curve with slopes -|S| (derived here).
    """
    order = np.argsort(-supports.sizes, kind="stable")
    sizes, probability = supports.sizes[order], supports.probability[order]
    present = sizes > 0
    spent = np.cumsum(probability * present)
    removed = np.cumsum(probability * sizes)
    served = np.interp(rate, np.append(0.0, spent), np.append(0.0, removed))
    return float(max(removed[-1] - served, 0.0))
