"""Geometry of a dictionary: how close its directions come to each other."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.nn import functional

from trilemma.metrics import scalar
from trilemma.metrics.scalar import Scalar

METRIC_VERSION = 1
DUPLICATE_COSINE = 0.9
"""Above it two directions are taken for one."""
_BLOCK_COSINES = 1 << 24
"""Cosines held at once (64 MiB)."""


class Geometry(NamedTuple):
    """How the directions of live latents lie; a dead latent's are what training left.

    Columns are NaN for other latents and where a direction has no length, numbers None
    where there is no pair of directions.
    """

    dict_cos: Float64[np.ndarray, " d_sae"]
    """Largest cosine of each decoder row with another one."""
    enc_dec_cos: Float64[np.ndarray, " d_sae"] | None
    """Cosine of each latent's encoder and decoder; None without such an encoder."""
    mean_dict_cos: float | None
    duplicate_fraction: float | None
    """Share of live latents whose `dict_cos` exceeds DUPLICATE_COSINE."""
    c_dec: float | None
    """Mean |cosine| of two decoder rows."""
    mutual_coherence: float | None
    """Largest |cosine| of two decoder rows."""
    num_latents: int


@torch.inference_mode()
def geometry(
    W_dec: Float[Tensor, "d_sae d_in"],
    W_enc: Float[Tensor, "d_in d_sae"] | None,
    *,
    is_live: Bool[np.ndarray, " d_sae"],
) -> Geometry:
    """Return how decoder rows and encoder columns of live latents lie.

    All pairs are taken, a block of rows at a time, so memory does not grow with the
    square of d_sae. Sums are in float64.
    """
    is_live = is_live & (W_dec != 0).any(1).cpu().numpy()
    live = torch.from_numpy(np.flatnonzero(is_live)).to(W_dec.device)
    decoder = functional.normalize(W_dec[live].float(), dim=1)
    num = len(live)
    nearest, dict_cos = decoder.new_zeros(num), np.full(len(is_live), np.nan)
    total, largest = 0.0, 0.0
    step = max(1, _BLOCK_COSINES // max(num, 1))
    for start in range(0, num if num > 1 else 0, step):
        block = decoder[start : start + step]
        cosine = block @ decoder.T
        own = torch.arange(len(block), device=block.device)
        cosine[own, own + start] = -torch.inf
        nearest[start : start + step] = cosine.amax(1)
        cosine[own, own + start] = 0
        size = cosine.abs_()
        total += float(size.sum(dtype=torch.float64))
        largest = max(largest, float(size.max()))
    enc_dec_cos = None
    if W_enc is not None:
        encoder = functional.normalize(W_enc.T[live].float(), dim=1)
        enc_dec_cos = np.full(len(is_live), np.nan)
        cosine = (encoder * decoder).sum(1).where((encoder != 0).any(1), torch.nan)
        enc_dec_cos[is_live] = cosine.double().cpu().numpy()
    if num <= 1:
        return Geometry(dict_cos, enc_dec_cos, None, None, None, None, num)
    dict_cos[is_live] = nearest.double().cpu().numpy()
    return Geometry(
        dict_cos,
        enc_dec_cos,
        mean_dict_cos=float(np.nanmean(dict_cos)),
        duplicate_fraction=float((dict_cos[is_live] > DUPLICATE_COSINE).mean()),
        c_dec=total / (num * (num - 1)),
        mutual_coherence=largest,
        num_latents=num,
    )


def scalars(found: Geometry) -> dict[str, Scalar]:
    """Return the means, shares and extremes over live latents."""
    duplicate = f"share whose dict_cos exceeds {DUPLICATE_COSINE:g}"
    exact = {
        "dict_cos": (found.mean_dict_cos, "largest cosine with another, mean"),
        "duplicate_fraction": (found.duplicate_fraction, duplicate),
        "c_dec": (found.c_dec, "mean |cosine| of two"),
        "mutual_coherence": (found.mutual_coherence, "largest |cosine| of two"),
    }
    metrics = {
        name: scalar.pure_number(
            value,
            n=found.num_latents,
            method=f"exact; decoder rows of live latents: {method}",
            version=METRIC_VERSION,
            reason="fewer than two latents that fired have a decoder row",
        )
        for name, (value, method) in exact.items()
    }
    if found.enc_dec_cos is not None:
        metrics["enc_dec_cos"] = scalar.mean_of(
            found.enc_dec_cos,
            method="exact; cosine of a latent's encoder and decoder",
            version=METRIC_VERSION,
            reason="no latent that fired has an encoder and a decoder row",
        )
    return metrics
