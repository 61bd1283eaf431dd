"""Bits of simple codes: yardsticks for a rate, and what a tree of latents saves.

The codes are those of Ayonrinde, Pearce and Sharkey 2024 (MDL-SAEs, arXiv 2410.11179).
"""

import math

import numpy as np
from jaxtyping import Float64
from scipy import special


def binary_entropy(
    p: float | Float64[np.ndarray, "*shape"],
) -> Float64[np.ndarray, "*shape"]:
    """Return the bits of an event of probability p: `-p log2 p - (1-p) log2 (1-p)`."""
    p = np.asarray(p, dtype=np.float64)
    bits: Float64[np.ndarray, "*shape"] = (
        special.entr(p) + special.entr(1 - p)
    ) / math.log(2)
    return bits


def sparse_bound(l0: float, *, value_bits: float, d_sae: int) -> float:
    """Return the bits of naming each active latent and its value.

    `L0 (B + log2 D)` of MDL-SAEs, an upper bound that knows no latent's density.
    Their SAE of GPT-2 small (l0 65, 25,000 latents, B = 7) takes 1404.63 bits a token.
    """
    return l0 * (value_bits + math.log2(d_sae))


def dense(d_in: int, *, value_bits: float) -> float:
    """Return the bits of writing out an activation: 7 a value are 5376 for d_in 768."""
    return value_bits * d_in


def one_hot(*, value_bits: float, d_vocab: int, ctx: int) -> float:
    """Return the bits of a latent for each sequence of tokens: `B + ctx log2 d_vocab`.

    That is the sparse bound at l0 = 1. For 128 tokens of GPT-2 and B = 7 it is 2005.98.
    MDL-SAEs publish 13,993, which is what their formula gives when B multiplies the
    logarithm instead of being added to it.
    """
    return value_bits + ctx * math.log2(d_vocab)


def tree(p_parent: float, p_child: float) -> float:
    """Return the bits of a parent, and of its child where the parent is active.

    MDL-SAEs' code for a child that implies its parent: the joint entropy of both.
    """
    return float(
        binary_entropy(p_parent) + p_parent * binary_entropy(p_child / p_parent)
    )


def disjoint(p_parent: float, p_child: float) -> float:
    """Return the bits of latents "child" and "parent without child", each on its own.

    Never below the tree's (derived here): their entropies sum to at least the joint.
    """
    return float(binary_entropy(p_child) + binary_entropy(p_parent - p_child))


def overlapping(p_parent: float, p_child: float) -> float:
    """Return the bits of latents "parent" and "child", each coded on its own."""
    return float(binary_entropy(p_parent) + binary_entropy(p_child))
