"""Bit allocation: a bin width for each latent, at the distortion of a common one.

Ayonrinde, Pearce and Sharkey (2024) name precision per latent as a possible
refinement; the greedy allocation is that of Shoham and Gersho 1988, "Efficient bit
allocation for an arbitrary set of quantizers".
"""

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from trilemma.metrics import rate

_HALF_OCTAVES = range(-4, 9)
"""Widths that a latent may have, about the common one; wider bins hold most latents'
activations whole."""
_BISECTIONS = 14
_STEEPEST = 2.0**20


def widths(
    codes: rate.Codes,
    trial: rate.Trial,
    W_dec: Float[Tensor, "d_sae d_in"],
    *,
    common: float,
    tolerance: float,
) -> Float64[Tensor, " d_sae"]:
    """Return a bin width for each latent, together no dearer than the common one.

    A greedy allocation refines, step by step, the latent whose next step saves the
    most squared error for a bit, along each latent's lower convex hull of bits and
    error. Where it stops at a slope, every latent has the width that minimises its
    bits plus slope times error; so the search is over the slope alone. An allocation
    counts if the whole quantised code, errors of latents that meet in a row included,
    keeps within the tolerance. Where none is cheaper, all have the common width.
    """
    grid = np.array([common * 2 ** (step / 2) for step in _HALF_OCTAVES])
    power = W_dec.double().square().sum(1).cpu().numpy()[codes.latent]
    value = torch.from_numpy(codes.value.astype(np.float64))
    bits, error = [], []
    for width in grid:
        shift = rate.midpoints(rate.levels(value, width), width) - value
        bits.append(rate.code_length(codes, rate.symbols(codes, width)).latent_bits)
        error.append(
            np.bincount(codes.latent, shift.numpy() ** 2 * power, minlength=codes.d_sae)
        )
    cost, lost = np.stack(bits), np.stack(error)
    columns = np.arange(codes.d_sae)
    allowed = trial.allowed(tolerance)
    best = np.full(codes.d_sae, list(_HALF_OCTAVES).index(0))
    # Bits a row for all the error there is at the common width: the natural slope.
    unit = float(cost[best, columns].sum() / max(lost[best, columns].sum(), 1e-300))
    low, high = -np.log2(_STEEPEST), np.log2(_STEEPEST)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        chosen = (cost + unit * 2**middle * lost).argmin(0)
        if trial.rise(_on_device(grid[chosen], trial)) > allowed:
            low = middle
            continue
        high = middle
        if cost[chosen, columns].sum() < cost[best, columns].sum():
            best = chosen
    return torch.from_numpy(grid[best])


def _on_device(
    width: Float64[np.ndarray, " d_sae"], trial: rate.Trial
) -> Float64[Tensor, " d_sae"]:
    return torch.from_numpy(width).to(trial.value.device)
