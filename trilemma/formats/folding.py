"""Algebra that turns one format's weights into another's without changing the SAE."""

from collections.abc import Mapping

from torch import Tensor


def centred(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights whose input is x - b_dec, from those whose input is x.

    x W_enc + b_enc = (x - b_dec) W_enc + (b_enc + b_dec W_enc), so thresholds stay as
    they are. The same shift goes to both biases of a gated SAE, times exp(r_mag) to
    that of its magnitudes.
    """
    return _shifted(tensors, 1)


def uncentred(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights whose input is x, from those whose input is x - b_dec."""
    return _shifted(tensors, -1)


def unit_decoder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an SAE with a unit-norm decoder, from one that is rescaled as it runs.

    The rescaled SAE selects from z n and decodes acts / n, with n the norms of the
    rows of W_dec. So W_enc and b_enc take the factor n, and W_dec loses it. What a
    threshold is compared with is z n, so a threshold stays as it is.
    """
    norm = tensors["W_dec"].double().norm(dim=1)
    changed = {
        "W_enc": tensors["W_enc"] * norm,
        "b_enc": tensors["b_enc"] * norm,
        "W_dec": tensors["W_dec"] / norm[:, None],
    }
    return {**tensors, **{name: tensor.float() for name, tensor in changed.items()}}


def _shifted(tensors: Mapping[str, Tensor], sign: int) -> dict[str, Tensor]:
    # In float64: the shift may be much larger than the biases.
    shift = sign * (tensors["b_dec"].double() @ tensors["W_enc"].double())
    shifts = {"b_enc": shift, "b_gate": shift}
    if "r_mag" in tensors:
        shifts["b_mag"] = shift * tensors["r_mag"].double().exp()
    changed = {
        name: (tensors[name] + by).float()
        for name, by in shifts.items()
        if name in tensors
    }
    return {**tensors, **changed}
