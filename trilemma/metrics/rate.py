"""Rate: how many bits a token's code takes once its activations are quantised."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor
from torch.nn import functional

METRIC_VERSION = 1
LEAST_FVU = 1e-4
"""An SAE that reconstructs better than this is quantised as if it had this fvu."""
FINEST = 2.0**-24
"""Of the largest activation: float32 has no finer digits, whatever is allowed."""
_BISECTIONS = 8
"""Halvings of the last octave, so the width is known to 2^(1/256), or 0.3 %."""
_MAX_OCTAVES = 60
_DENSE_KEYS = 1 << 24
"""Pairs of latent and symbol up to which each has its own counter (128 MiB)."""

Width = float | Float64[Tensor, " d_sae"]
"""One bin width for all latents, or one for each."""


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
    latent_bits: Float64[np.ndarray, " d_sae"]
    """Mean bits a row of each latent: its entropy, or what its parent leaves of it."""
    miller_madow_bits: float
    """What the Miller-Madow correction would add per row (Miller 1955)."""


class Trial:
    """The entries of the probes, on which any bin widths can be tried."""

    def __init__(
        self, codes: Codes, probes: Probes, W_dec: Float[Tensor, "d_sae d_in"]
    ) -> None:
        begin = np.searchsorted(codes.row, probes.row)
        end = np.searchsorted(codes.row, probes.row + 1)
        lengths = end - begin
        offsets = np.concatenate([[0], lengths.cumsum()])
        taken = np.arange(offsets[-1]) + np.repeat(begin - offsets[:-1], lengths)
        device = W_dec.device
        self.latent = torch.from_numpy(codes.latent[taken]).to(device)
        self.value = torch.from_numpy(codes.value[taken].astype(np.float64)).to(device)
        self.squared_error = float(probes.error.double().square().sum())
        self.squared_deviation = probes.squared_deviation
        self._starts = torch.from_numpy(offsets[:-1]).to(device)
        self._error = probes.error
        self._W_dec = W_dec

    def rise(self, width: Width) -> float:
        """Return what quantising adds to the squared error, summed over the probes."""
        if len(self.value) == 0:
            return 0.0
        at = width if isinstance(width, float) else width[self.latent]
        shift = midpoints(levels(self.value, at), at) - self.value
        moved = functional.embedding_bag(
            self.latent,
            self._W_dec,
            self._starts,
            mode="sum",
            per_sample_weights=shift.to(self._W_dec.dtype),
        )
        error = (self._error - moved).double().square().sum()
        return float(error) - self.squared_error

    def allowed(self, tolerance: float) -> float:
        """Return the rise that a relative tolerance of `fvu` allows."""
        least = LEAST_FVU * self.squared_deviation
        return tolerance * max(self.squared_error, least)


def bin_width(
    codes: Codes,
    probes: Probes,
    W_dec: Float[Tensor, "d_sae d_in"],
    *,
    tolerance: float,
) -> float | None:
    """Return the largest common bin width whose quantisation the SAE can afford.

    That is the width at which `fvu` over the probes rises by `tolerance`, relative.
    None where nothing fires, so that there is nothing to quantise; where no probe
    fires, nothing is lost there and one bin holds all. One width for all latents
    follows Ayonrinde, Pearce and Sharkey 2024, section 3 (their epsilon).
    """
    if len(codes.value) == 0:
        return None
    trial = Trial(codes, probes, W_dec)
    if len(trial.value) == 0:
        return 2 * float(codes.value.max())
    allowed = trial.allowed(tolerance)
    finest = FINEST * float(trial.value.max())
    # Uniform errors in (-width/2, width/2) of unit rows raise the squared error by
    # width^2 / 12 each; the search starts where that meets what is allowed.
    found = largest_width(
        lambda width: trial.rise(width) <= allowed,
        start=max(finest, math.sqrt(12 * allowed / len(trial.value))),
        limit=math.inf,
        num_bisections=_BISECTIONS,
    )
    return max(finest, found)


def largest_width(
    is_affordable: Callable[[float], bool],
    *,
    start: float,
    limit: float,
    num_bisections: int,
) -> float:
    """Return about the largest width that is affordable, at most `limit`.

    The search doubles or halves `start` until it has passed the border, then halves
    the octave between, so the width is known to a factor of 2^(2^-num_bisections).
    """
    width, octaves = start, 0
    if is_affordable(width):
        while (
            octaves < _MAX_OCTAVES and 2 * width <= limit and is_affordable(2 * width)
        ):
            width, octaves = 2 * width, octaves + 1
        if 2 * width > limit:
            return width
    else:
        width /= 2
        while octaves < _MAX_OCTAVES and not is_affordable(width):
            width, octaves = width / 2, octaves + 1
    low, high = 0.0, 1.0
    for _ in range(num_bisections):
        middle = (low + high) / 2
        if is_affordable(width * 2**middle):
            low = middle
        else:
            high = middle
    return float(width * 2**low)


def levels(
    value: Float64[Tensor, "*entries"], width: Width
) -> Float64[Tensor, "*entries"]:
    """Return the symbol of each positive activation: 1, 2, ...; 0 means silent."""
    return (value / width).floor() + 1


def midpoints(
    level: Float64[Tensor, "*entries"], width: Width
) -> Float64[Tensor, "*entries"]:
    """Return the activation that a symbol stands for: the middle of its bin."""
    return (level - 0.5) * width


def symbols(codes: Codes, width: Width | None) -> Int64[np.ndarray, " entry"]:
    """Return the symbol of each entry of the codes at a bin width, or one a latent."""
    if width is None:
        return np.zeros(0, dtype=np.int64)
    at = width if isinstance(width, float) else width.cpu()[codes.latent]
    value = torch.from_numpy(codes.value.astype(np.float64))
    return levels(value, at).long().numpy()


def code_length(
    codes: Codes,
    symbol: Int64[np.ndarray, " entry"],
    *,
    parents: Int64[np.ndarray, " d_sae"] | None = None,
) -> CodeLength:
    """Return the bits of each row under the best code of each latent on its own.

    A symbol that stands in a share p of the rows costs -log2 p bits, and silence is a
    symbol too, so the mean over rows is `sum_j H_b(p_j) + p_j H(q_j | fires)`.
    The interval of that mean may hold the code fixed: the first-order effect of a
    document on the entropy is its mean code length less the entropy.

    With `parents` (-1 for a root) a latent is coded in the rows alone in which its
    parent fires, as in the trees of Ayonrinde, Pearce and Sharkey 2024; it may fire
    in no others.
    """
    num_rows, d_sae = len(codes.document), codes.d_sae
    fired = np.bincount(codes.latent, minlength=d_sae)
    roots = np.full(d_sae, -1) if parents is None else parents
    context = np.where(roots < 0, num_rows, fired[roots])
    silent = context - fired
    assert (silent >= 0).all(), "a latent fires where its parent does not"
    is_silent = silent > 0
    silence_bits = np.log2(
        np.where(is_silent, context / np.where(is_silent, silent, 1), 1)
    )
    low = int(symbol.min(initial=0))
    span = int(symbol.max(initial=0)) - low + 1
    key = codes.latent * span + (symbol - low)
    if d_sae * span > _DENSE_KEYS:
        key = np.unique(key, return_inverse=True)[1]
    count = np.bincount(key)
    symbol_bits = np.log2(context[codes.latent] / count[key])
    is_root = roots < 0
    # A row pays its roots' silence, and that of the children of every latent in it;
    # a latent that fires takes back its own.
    of_children = np.bincount(roots[~is_root], silence_bits[~is_root], minlength=d_sae)
    extra = symbol_bits + (of_children - silence_bits)[codes.latent]
    bits = silence_bits[is_root].sum() + np.bincount(
        codes.row, extra, minlength=num_rows
    )
    paid = np.bincount(codes.latent, symbol_bits, minlength=d_sae)
    num_symbols = int((count > 0).sum()) + int(is_silent.sum())
    num_coded = int((context > 0).sum())
    return CodeLength(
        bits=bits,
        latent_bits=(paid + silent * silence_bits) / num_rows,
        miller_madow_bits=(num_symbols - num_coded) / (2 * num_rows * math.log(2)),
    )
