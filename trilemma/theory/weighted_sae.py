"""What an SAE recovers of superposed features, in closed form.

Cui, Zhang, Wang and Wang 2026 (arXiv 2506.15963, v2) observe features x through a
projection W_p as `x_p = W_p x` and study the tied SAE without biases whose encoder is
`W_m = W_p^T`: the optimum of their theorem 1. `W_p` here is theirs, `[n_p, n]`.

Their theorem holds where one feature is active at a time. For polygons of three or
more features at finite sparsity it does not: `[Q; -Q]` with Q orthogonal reconstructs
every x_p exactly (derived here), so nothing here trains towards W_p.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

DIGON = np.array([[1.0, -1.0]])
"""Two features on opposite ends of one dimension."""
TRIANGLE = np.array([[1.0, -0.5, -0.5], [0.0, 0.75**0.5, -(0.75**0.5)]])
"""Three features at 120 degrees in a plane."""


class Losses(NamedTuple):
    """Means over samples."""

    sae: float
    """`L_WSAE`: weighted squared error of `x_p`; `L_SAE` where the weights are one."""
    ground_truth: float
    """`L_GT`: squared error of the features themselves."""


def recovered(
    W_p: Float64[np.ndarray, "n_p n"], x: Float64[np.ndarray, "*sample n"]
) -> Float64[np.ndarray, "*sample n"]:
    """Return the code `relu(W_p^T W_p x)` of features x."""
    acts: Float64[np.ndarray, "*sample n"] = np.maximum(x @ W_p.T @ W_p, 0)
    return acts


def losses(
    W_p: Float64[np.ndarray, "n_p n"],
    x: Float64[np.ndarray, "sample n"],
    gamma: Float64[np.ndarray, " n_p"],
) -> Losses:
    """Return what the SAE loses of `x_p`, its dimensions weighted by gamma, and of x.

    `L_WSAE = E|Gamma (x_p - W_m^T relu(W_m x_p))|^2` and
    `L_GT = E|x - relu(W_m x_p)|^2` are the paper's, here with `W_m = W_p^T`.
    """
    acts, x_p = recovered(W_p, x), x @ W_p.T
    return Losses(
        sae=float(np.square(gamma * (x_p - acts @ W_p.T)).sum(-1).mean()),
        ground_truth=float(np.square(x - acts).sum(-1).mean()),
    )


def interference(
    W_p: Float64[np.ndarray, "n_p n"], gamma: Float64[np.ndarray, " n_p"]
) -> Float64[np.ndarray, "n n"]:
    """Return `W_p^T Gamma^2 W_p - I`: small weights shrink its off-diagonal entries."""
    gram = (W_p * gamma[:, None] ** 2).T @ W_p
    interference: Float64[np.ndarray, "n n"] = gram - np.eye(W_p.shape[1])
    return interference


def gap(
    W_p: Float64[np.ndarray, "n_p n"],
    x: Float64[np.ndarray, "sample n"],
    gamma: Float64[np.ndarray, " n_p"],
) -> float:
    """Return `E[e^T (W_p^T Gamma^2 W_p - I) e]` with `e = x - relu(W_p^T W_p x)`.

    It equals `L_WSAE - L_GT`: theorem 5 of the paper, and theorem 4 at weights of one.
    """
    error = x - recovered(W_p, x)
    return float(((error @ interference(W_p, gamma)) * error).sum(-1).mean())


def digon_ground_truth_loss(sparsity: float) -> float:
    """Return `L_GT` of the digon: `(1 - S)^2 / 3`, while `L_SAE` is 0 (derived here).

    Each feature is 0 with probability S, else uniform in (0, 1). Reconstruction is
    perfect, and both features are lost by the lesser one wherever both are active.
    """
    return (1 - sparsity) ** 2 / 3
