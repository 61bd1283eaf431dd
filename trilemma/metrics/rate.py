"""Rate: how many bits a token's code takes once its activations are quantised."""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor
from torch.nn import functional

METRIC_VERSION = 1
_LEAST_FVU = 1e-4
"""An SAE that reconstructs better than this is quantised as if it had this fvu."""
_BISECTIONS = 8
"""Halvings of the last octave, so the width is known to 2^(1/256), or 0.3 %."""
_MAX_OCTAVES = 60
_DENSE_KEYS = 1 << 24
"""Pairs of latent and symbol up to which each has its own counter (128 MiB)."""


class Codes(NamedTuple):
    """The nonzero activations of a bounded sample of rows, in row order."""

    document: Int64[np.ndarray, " row"]
    """Index of each row's document; its length is the number of rows."""
    row: Int64[np.ndarray, " entry"]
    latent: Int64[np.ndarray, " entry"]
    value: Float32[np.ndarray, " entry"]
    d_sae: int
    """Number of latents, firing or not."""


class Probes(NamedTuple):
    """Some rows of the sample whose errors are kept, to try bin widths on."""

    row: Int64[np.ndarray, " probe"]
    """Increasing rows of the sample."""
    error: Float[Tensor, "probe d_in"]
    """`x - x_hat` before quantisation."""
    squared_deviation: float
    """Sum of `|x - mean|^2` over the probes."""


class CodeLength(NamedTuple):
    """Bits of an entropy code that is fitted to the sample it is measured on."""

    bits: Float64[np.ndarray, " row"]
    """Bits of each row; their mean is the sum of the latents' entropies."""
    miller_madow_bits: float
    """What the Miller-Madow correction would add per row (Miller 1955)."""


def bin_width(
    codes: Codes,
    probes: Probes,
    W_dec: Float[Tensor, "d_sae d_in"],
    *,
    tolerance: float,
) -> float | None:
    """Return the largest common bin width whose quantisation the SAE can afford.

    That is the width at which `fvu` over the probes rises by `tolerance`, relative.
    None where nothing fires, so that there is nothing to quantise. One width for all
    latents follows Ayonrinde, Pearce and Sharkey 2024, section 3 (their epsilon).
    """
    begin = np.searchsorted(codes.row, probes.row)
    end = np.searchsorted(codes.row, probes.row + 1)
    lengths = end - begin
    offsets = np.concatenate([[0], lengths.cumsum()])
    if offsets[-1] == 0:
        return None
    taken = np.arange(offsets[-1]) + np.repeat(begin - offsets[:-1], lengths)
    latent = torch.from_numpy(codes.latent[taken]).to(W_dec.device)
    value = torch.from_numpy(codes.value[taken].astype(np.float64)).to(W_dec.device)
    starts = torch.from_numpy(offsets[:-1]).to(W_dec.device)
    squared_error = float(probes.error.double().square().sum())
    allowed = tolerance * max(squared_error, _LEAST_FVU * probes.squared_deviation)

    def is_affordable(width: float) -> bool:
        shift = midpoints(levels(value, width), width) - value
        moved = functional.embedding_bag(
            latent,
            W_dec,
            starts,
            mode="sum",
            per_sample_weights=shift.to(W_dec.dtype),
        )
        error = (probes.error - moved).double().square().sum()
        return float(error) - squared_error <= allowed

    # Uniform errors in (-width/2, width/2) of unit rows raise the squared error by
    # width^2 / 12 each; the search starts where that meets what is allowed.
    width = math.sqrt(12 * allowed / len(value))
    octaves = 0
    if is_affordable(width):
        while is_affordable(2 * width) and octaves < _MAX_OCTAVES:
            width, octaves = 2 * width, octaves + 1
    else:
        width /= 2
        while not is_affordable(width) and octaves < _MAX_OCTAVES:
            width, octaves = width / 2, octaves + 1
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if is_affordable(width * 2**middle):
            low = middle
        else:
            high = middle
    return float(width * 2**low)


def levels(
    value: Float64[Tensor, "*entries"], width: float
) -> Float64[Tensor, "*entries"]:
    """Return the symbol of each positive activation: 1, 2, ...; 0 means silent."""
    return (value / width).floor() + 1


def midpoints(
    level: Float64[Tensor, "*entries"], width: float
) -> Float64[Tensor, "*entries"]:
    """Return the activation that a symbol stands for: the middle of its bin."""
    return (level - 0.5) * width


def symbols(codes: Codes, width: float | None) -> Int64[np.ndarray, " entry"]:
    """Return the symbol of each entry of the codes at a bin width."""
    if width is None:
        return np.zeros(0, dtype=np.int64)
    value = torch.from_numpy(codes.value.astype(np.float64))
    return levels(value, width).long().numpy()


def code_length(codes: Codes, symbol: Int64[np.ndarray, " entry"]) -> CodeLength:
    """Return the bits of each row under the best code of each latent on its own.

    A symbol that stands in a share p of the rows costs -log2 p bits, and silence is a
    symbol too, so the mean over rows is `sum_j H_b(p_j) + p_j H(q_j | fires)`.
    The interval of that mean may hold the code fixed: the first-order effect of a
    document on the entropy is its mean code length less the entropy.
    """
    num_rows = len(codes.document)
    fired = np.bincount(codes.latent, minlength=codes.d_sae)
    silent = num_rows - fired
    silence_bits = np.log2(num_rows / np.where(silent > 0, silent, num_rows))
    low = int(symbol.min(initial=0))
    span = int(symbol.max(initial=0)) - low + 1
    key = codes.latent * span + (symbol - low)
    if codes.d_sae * span > _DENSE_KEYS:
        key = np.unique(key, return_inverse=True)[1]
    count = np.bincount(key)
    symbol_bits = np.log2(num_rows / np.maximum(count, 1))
    extra = symbol_bits[key] - silence_bits[codes.latent]
    bits = silence_bits.sum() + np.bincount(codes.row, extra, minlength=num_rows)
    num_symbols = int((count > 0).sum()) + int((silent > 0).sum())
    correction = (num_symbols - codes.d_sae) / (2 * num_rows * math.log(2))
    return CodeLength(bits=bits, miller_madow_bits=correction)
