"""When a latent for "A and B" pays: never dearer in latents, often dearer in bits.

Two latents fire for A and for B; a third for both together turns them into "only A"
and "only B". The question and the two codes are those of Ayonrinde, Pearce and Sharkey
2024 (MDL-SAEs, arXiv 2410.11179); the boundary and its expansion are derived here.
"""

import numpy as np
from jaxtyping import Float64
from scipy import optimize

from trilemma.theory.code_lengths import binary_entropy

_Probability = float | Float64[np.ndarray, "*shape"]


def saved_bits(
    p_a: _Probability, p_b: _Probability, p_ab: _Probability
) -> Float64[np.ndarray, "*shape"]:
    """Return how many bits a sample the third latent saves: `DL_2 - DL_3`.

    `DL_2 = H(pA) + H(pB)`; `DL_3 = H(pA - pAB) + H(pB - pAB) + H(pAB)`, with H the
    binary entropy: whether latents fire is coded, how strongly they fire is not. For
    rare concepts it is about `pAB (ln(pAB / (pA pB)) - 1)` nats, so it is above zero
    where their pointwise mutual information is above 1 nat (derived here).
    """
    p_a, p_b, p_ab = np.asarray(p_a), np.asarray(p_b), np.asarray(p_ab)
    two = binary_entropy(p_a) + binary_entropy(p_b)
    # A concept that is never alone may come out a rounding error below zero.
    only_a, only_b = (p_a - p_ab).clip(0), (p_b - p_ab).clip(0)
    three = binary_entropy(only_a) + binary_entropy(only_b) + binary_entropy(p_ab)
    saved: Float64[np.ndarray, "*shape"] = two - three
    return saved


def pmi_nats(
    p_a: _Probability, p_b: _Probability, p_ab: _Probability
) -> Float64[np.ndarray, "*shape"]:
    """Return the pointwise mutual information of two events: `ln(pAB / (pA pB))`.

    Minus infinity where they never occur together.
    """
    p_a, p_b, p_ab = np.asarray(p_a), np.asarray(p_b), np.asarray(p_ab)
    with np.errstate(divide="ignore"):
        pmi: Float64[np.ndarray, "*shape"] = np.log(p_ab) - np.log(p_a) - np.log(p_b)
    return pmi


def break_even(p_a: float, p_b: float) -> float | None:
    """Return how often A and B must occur together for a third latent to pay.

    None where it does not pay even if the rarer one never occurs alone.
    """
    most = min(p_a, p_b)
    if saved_bits(p_a, p_b, most) <= 0:
        return None
    found = optimize.brentq(
        lambda p_ab: float(saved_bits(p_a, p_b, p_ab)),
        p_a * p_b,
        most,
        xtol=1e-15,
        rtol=1e-12,
    )
    return float(found)


def boundary_correlation(p: float) -> float:
    """Return the correlation rho* above which a third latent pays, at `pA = pB = p`.

    With `pAB = p^2 + rho p (1 - p)`. MDL-SAEs call it "typically less than pA"; it is
    1.07 to 1.72 times p, and `(e - 1) p` for rare concepts (derived here).
    """
    together = break_even(p, p)
    assert together is not None, "two events that are one cost one of the two"
    return (together - p**2) / (p * (1 - p))
