"""Weights of the input dimensions in the squared error.

Cui et al. (2026), "On the limits of sparse autoencoders: a theoretical framework and
reweighted remedy" (arXiv 2506.15963): the error is ||Gamma (x - x_hat)||^2 with Gamma
diagonal and gamma_i = s_i^alpha, s_i the variance of dimension i or its semantic
consistency. How they scale s is not told; our normalisation is of gamma.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from trilemma import file_digests
from trilemma.config.terms import (
    ConsistencyWeights,
    GivenWeights,
    InputWeights,
    VarianceWeights,
)
from trilemma.formats import files

# Rows that a dimension must be active on for the share of one token to mean anything.
_LEAST_ACTIVE = 2


class Sample(NamedTuple):
    """Some rows, and the token of each."""

    x: Float[Tensor, "rows d_in"]
    tokens: Int64[Tensor, "rows"]


def gamma(
    config: InputWeights,
    *,
    variance: Float64[Tensor, "d_in"],
    scale: float,
    sample: Callable[[int], Sample],
) -> Float[Tensor, "d_in"]:
    """Return the weight of each dimension.

    Args:
        config: what they are made of.
        variance: of each dimension, in the units of the activations.
        scale: what activations are multiplied by in training.
        sample: gives the first rows of the training split, as many as asked for.

    Raises:
        ValueError: there are too few rows, or what is given does not fit.
    """
    match config:
        case VarianceWeights():
            scores = variance * scale**2
        case ConsistencyWeights(num_rows=num, active_fraction=fraction):
            scores = consistency(sample(num), active_fraction=fraction)
        case GivenWeights():
            scores = _given(config, len(variance))
    weights = scores.pow(config.alpha)
    match config.normalisation:
        case "mean":
            weights = weights / weights.mean()
        case "max":
            weights = weights / weights.max()
    return weights.float()


def consistency(sample: Sample, *, active_fraction: float) -> Float64[Tensor, "d_in"]:
    """Return the share of each dimension's active rows that have its commonest token.

    The paper calls a value active beyond 1e-5. Every value of a residual stream is, so
    that we take the given share of rows on which it is farthest from its mean.
    """
    x, tokens = sample
    num_active = round(active_fraction * len(x))
    if num_active < _LEAST_ACTIVE:
        raise ValueError(
            f"terms.input_weights: found {len(x):,} rows, of which a dimension is "
            f"active on {num_active}; raise num_rows or active_fraction"
        )
    rows = (x - x.mean(0)).abs().topk(num_active, dim=0, sorted=False).indices
    labels = tokens[rows]
    commonest = labels.mode(dim=0).values
    return (labels == commonest).double().mean(0)


def file_digest(config: InputWeights | None) -> str | None:
    """Return the SHA-256 of the file with the scores; None where there is none."""
    if not isinstance(config, GivenWeights) or config.path is None:
        return None
    path = Path(config.path)
    if not path.is_file():
        raise ValueError(
            f"terms.input_weights.path: found no file {config.path!r}; name an .npy "
            "or .safetensors file"
        )
    (digest,) = file_digests.sha256([path])
    return digest


def _given(config: GivenWeights, d_in: int) -> Float64[Tensor, "d_in"]:
    if config.path is None:
        where, found = "values", torch.tensor(config.values, dtype=torch.float64)
    else:
        where, found = "path", _read(Path(config.path)).double()
    if found.shape != (d_in,):
        raise ValueError(
            f"terms.input_weights.{where}: found shape {tuple(found.shape)}; the "
            f"activations of target_hook, else of hook, have {d_in} dimensions"
        )
    if not bool((found.isfinite() & (found > 0)).all()):
        raise ValueError(
            f"terms.input_weights.{where}: found a score that is not above zero and "
            "finite; every dimension needs one"
        )
    return found


def _read(path: Path) -> Tensor:
    if path.suffix == ".safetensors":
        tensors = list(files.read_safetensors(path).values())
        if len(tensors) != 1:
            raise ValueError(
                f"terms.input_weights.path: found {len(tensors)} tensors in "
                f"{str(path)!r}; save one alone"
            )
        return tensors[0]
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except (ValueError, OSError, EOFError, TypeError) as error:
        raise ValueError(
            f"terms.input_weights.path: {str(path)!r} is no .npy file of numbers "
            f"({error})"
        ) from error
