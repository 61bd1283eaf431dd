"""Every rate of one SAE as scalars, from the codes that a pass kept."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from trilemma import allocation
from trilemma.config.stages import Evaluation
from trilemma.metrics import (
    bit_allocation,
    rate,
    rate_bounds,
    rate_curve,
    summaries,
    tree_code,
)
from trilemma.metrics.rate_curve import RateCurve
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.tally import Sample
from trilemma.theory import code_lengths

METRIC_VERSION = 1
_CE_BISECTIONS = 3
"""Each costs a run of the LM; the width is known to 2^(1/8), or 9 %."""


class Rates(NamedTuple):
    """What the code of one SAE takes, by several codes."""

    metrics: dict[str, Scalar]
    details: dict[str, float]
    """Bin widths."""
    curve: RateCurve
    """Without points where nothing fires, or where `fvu` is undefined."""
    length: rate.CodeLength
    """The code of the headline, `rate_bits`."""


def measure(
    sample: Sample,
    W_dec: Float[Tensor, "d_sae d_in"],
    config: Evaluation,
    *,
    fvu: Scalar,
    l0: Scalar,
    ce_rise: Callable[[float], float] | None,
    parents: Int64[np.ndarray, " node"] | None,
) -> Rates:
    """Return the rates of an SAE.

    `ce_rise` tells how far quantising at a bin width raises the cross-entropy, in
    nats a token, NaN where nothing is predicted; None where there is no LM. `parents`
    are those of `tree_code`, None for an SAE without structure.
    """
    codes, probes = sample
    d_sae, d_in = W_dec.shape
    tolerance = config.rate_fvu_tolerance
    width = rate.bin_width(codes, probes, W_dec, tolerance=tolerance)
    symbol = rate.symbols(codes, width)
    length = rate.code_length(codes, symbol)
    trial = rate.Trial(codes, probes, W_dec)

    def coded(length: rate.CodeLength, method: str) -> Scalar:
        return summaries.code_rate(codes, length, config, method=method)

    common = (
        "one bin width for all latents, the largest that raises fvu by "
        f"{tolerance:g} (relative; of an fvu of {rate.LEAST_FVU:g} at least)"
    )
    details, curve = {}, RateCurve(*np.zeros((3, 0)))
    headline = coded(length, common)
    own: rate.Width | None = None
    if width is not None:
        details["rate_bin_width"] = width
        own = bit_allocation.widths(
            codes, trial, W_dec, common=width, tolerance=tolerance
        )
        allocation.give_back()
        if fvu.value is not None and probes.squared_deviation > 0:
            curve = rate_curve.curve(codes, trial, width=width, fvu=fvu.value)
    decoder = rate_bounds.decoder_bits(
        d_sae=d_sae,
        d_in=d_in,
        weight_bits=config.rate_weight_bits,
        num_tokens=config.rate_decoder_tokens,
    )
    metrics = {
        "rate_bits": headline,
        "rate_bits_miller_madow": _shifted(
            headline, length.miller_madow_bits, "plus the Miller-Madow correction"
        ),
        "rate_bits_per_latent": coded(
            rate.code_length(codes, rate.symbols(codes, own)),
            "a bin width for each latent, by greedy bit allocation at the distortion "
            "of the common width; the widths themselves are not counted",
        ),
        "rate_two_part": _shifted(
            headline,
            decoder,
            f"plus the decoder at {config.rate_weight_bits} bits a weight over "
            f"{config.rate_decoder_tokens:,} tokens",
        ),
        "rate_l0_bits": _of_l0(
            l0,
            lambda value: code_lengths.sparse_bound(
                value, value_bits=rate_bounds.L0_VALUE_BITS, d_sae=d_sae
            ),
            f"L0 ({rate_bounds.L0_VALUE_BITS} + log2 d_sae)",
        ),
        "rate_support": _of_l0(
            l0,
            lambda value: rate_bounds.support_bits(value, d_sae=d_sae),
            f"log2 C(d_sae, L0) + {rate_bounds.SUPPORT_VALUE_BITS} L0",
        ),
    }
    if parents is not None:
        metrics["rate_bits_tree"] = coded(
            tree_code.code_length(codes, symbol, parents),
            f"{common}; children are coded where their parent is on",
        )
    if ce_rise is not None:
        ce_width, rise = width, functools.cache(ce_rise)
        is_predicted = width is None or not math.isnan(rise(width))
        if width is not None and is_predicted:
            ce_width = _ce_width(rise, width, codes, config)
            details["rate_ce_bin_width"] = ce_width
        found = coded(
            rate.code_length(codes, rate.symbols(codes, ce_width)),
            "one bin width for all latents, the largest that raises the cross-entropy "
            f"by at most {config.rate_ce_tolerance:g} nats/token over "
            f"{config.rate_ce_seqs} sequences",
        )
        if not is_predicted:
            reason = "nothing is predicted from an unmasked token of these sequences"
            found = found._replace(value=None, ci_low=None, ci_high=None, reason=reason)
        metrics["rate_bits_ce"] = found
    return Rates(metrics, details, curve, length)


def _ce_width(
    ce_rise: Callable[[float], float],
    start: float,
    codes: rate.Codes,
    config: Evaluation,
) -> float:
    largest = float(codes.value.max())
    found = rate.largest_width(
        lambda width: ce_rise(width) <= config.rate_ce_tolerance,
        start=start,
        # Where one bin holds every activation, wider bins code nothing more cheaply.
        limit=2 * largest,
        num_bisections=_CE_BISECTIONS,
    )
    return max(found, rate.FINEST * largest)


def _shifted(rate_bits: Scalar, added: float, method: str) -> Scalar:
    value, low, high = (None if at is None else at + added for at in rate_bits[:3])
    return rate_bits._replace(
        value=value,
        ci_low=low,
        ci_high=high,
        method=f"rate_bits {method}",
        metric_version=METRIC_VERSION,
    )


def _of_l0(l0: Scalar, bits: Callable[[float], float], method: str) -> Scalar:
    """Return a growing function of the mean L0, and of the ends of its interval."""
    value, low, high = (None if at is None else bits(max(at, 0.0)) for at in l0[:3])
    assert value is None or math.isfinite(value)
    return l0._replace(
        value=value,
        ci_low=low,
        ci_high=high,
        unit="bits/token",
        method=f"{method} at the mean L0",
        metric_version=METRIC_VERSION,
    )
