"""Losses of SAE training, as free functions; none depends on the size of a batch."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from trilemma import activation_functions, codes


def mse(
    x: Float[Tensor, "batch d_in"],
    x_hat: Float[Tensor, "batch d_in"],
    *,
    gamma: Float[Tensor, "d_in"] | None = None,
) -> Float[Tensor, ""]:
    """Return the squared error, summed over dimensions, averaged over rows.

    With gamma, the residual of each dimension is multiplied by its weight.
    """
    residual = x_hat - x
    if gamma is not None:
        residual = residual * gamma
    return residual.square().sum() / len(x)


def l1(acts: Float[Tensor, "*entries"], *, batch: int) -> Float[Tensor, ""]:
    """Return the sum of a row's activations, averaged over rows.

    Takes the activations of all rows, with or without zeros.
    Bricken et al. (2023), "Towards monosemanticity", penalty on the code.
    """
    return acts.sum(dtype=torch.float32) / batch


def lp(acts: Float[Tensor, "*entries"], p: float, *, batch: int) -> Float[Tensor, ""]:
    """Return the sum of a row's activations to the power p, averaged over rows.

    Karvonen et al. (2024), "Measuring progress in dictionary learning", eq. 3.
    """
    return acts.pow(p).sum(dtype=torch.float32) / batch


def log(
    acts: Float[Tensor, "*entries"], scale: float, *, batch: int
) -> Float[Tensor, ""]:
    """Return the sum over a row of ln(1 + act / scale), averaged over rows.

    A penalty that large activations hardly feel, suggested in Tilde Research, "The rate
    distortion dance of sparse autoencoders"; this form of it is ours.
    """
    return torch.log1p(acts / scale).sum(dtype=torch.float32) / batch


def tanh(
    acts: Float[Tensor, "*entries"], scale: float, *, batch: int
) -> Float[Tensor, ""]:
    """Return the sum over a row of the tanh of scale * act, averaged over rows.

    Conerly et al. (Anthropic, January 2025), "Dictionary learning optimization
    techniques"; decoder rows have unit norm here.
    """
    return torch.tanh(acts * scale).sum(dtype=torch.float32) / batch


def l0(
    pre_acts: Float[Tensor, "*entries"],
    threshold: Float[Tensor, "*entries"],
    *,
    bandwidth: float,
    batch: int,
) -> Float[Tensor, ""]:
    """Return the latents on in a row, averaged over rows, with a gradient in theta.

    Rajamanoharan et al. (2024), "Jumping ahead", section 3. Takes at least the entries
    that are above, or within half a bandwidth of, their threshold.
    """
    on = activation_functions.step_ste(pre_acts, threshold, bandwidth=bandwidth)
    return on.sum(dtype=torch.float32) / batch


def auxk(
    residual: Float[Tensor, "batch d_out"],
    x: Float[Tensor, "batch d_in"],
    *,
    W_enc: Float[Tensor, "d_in num_dead"],
    b_enc: Float[Tensor, "num_dead"],
    W_dec: Float[Tensor, "num_dead d_out"],
    center: Float[Tensor, "d_in"],
    k: int,
    mean: Callable[[Tensor], Tensor],
) -> Float[Tensor, ""]:
    """Return the share of the residual that the k best dead latents leave unexplained.

    Gao et al. (2024), "Scaling and evaluating sparse autoencoders", appendix A.2, over
    the variance of the residual (0 where it has none). Takes the weights of the dead
    latents alone; the residual is a target, without gradient. `mean` turns a
    mean over these rows into that over all rows of the batch.
    """
    residual = residual.detach()
    with torch.no_grad():
        pre_acts = torch.addmm(b_enc, x - center, W_enc)
        support = codes.topk(pre_acts, k)
        centred = residual - mean(residual.mean(0))
        variance = mean(centred.square().sum() / len(x))
    values = codes.selected_pre_acts(
        x, W_enc, b_enc, center, pre_acts=pre_acts, support=support
    )
    estimate = codes.decode(torch.relu(values), W_dec, support=support)
    # A quotient of 0 that was inf would still have a gradient of nan.
    return mean(mse(residual, estimate)) / torch.where(
        variance > 0, variance, torch.inf
    )
