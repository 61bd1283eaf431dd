"""What a count of latents costs without entropies, and what a decoder costs.

The bound by indices is `theory.code_lengths.sparse_bound`.
"""

import math

from scipy import special

L0_VALUE_BITS = 7
"""Bits of a value in `rate_l0_bits`: 8 less the sign, which no latent needs; the B of
Ayonrinde, Pearce and Sharkey 2024, for GPT-2 small."""
SUPPORT_VALUE_BITS = 8
"""Bits of a value in `rate_support`: a byte; proposed here."""


def support_bits(l0: float, *, d_sae: int) -> float:
    """Return `log2 C(d_sae, L0) + b L0`: the set of active latents, and their values.

    The mean L0 may be a fraction; the binomial coefficient is then that of the gamma
    function. It grows with L0 as long as L0 is at most 2^b / (2^b + 1) of d_sae.
    """
    log_choices = (
        special.gammaln(d_sae + 1)
        - special.gammaln(l0 + 1)
        - special.gammaln(d_sae - l0 + 1)
    )
    return float(log_choices / math.log(2)) + SUPPORT_VALUE_BITS * l0


def decoder_bits(*, d_sae: int, d_in: int, weight_bits: int, num_tokens: int) -> float:
    """Return `M d B_w / N`: the decoder, sent once, spread over N tokens (derived)."""
    return d_sae * d_in * weight_bits / num_tokens
