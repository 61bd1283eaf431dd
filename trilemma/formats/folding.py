"""Algebra that turns one format's weights into another's without changing the SAE."""

from collections.abc import Mapping

from torch import Tensor

# SAELens's floor of a decoder row's norm: a row of zeros has to stay one.
_LEAST_NORM = 1e-8


def centred(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights whose input is x - b_dec, from those whose input is x.

    x W_enc + b_enc = (x - b_dec) W_enc + (b_enc + b_dec W_enc), so thresholds stay as
    they are. The same shift goes to both biases of a gated SAE, times exp(r_mag) to
    that of its magnitudes.
    """
    return _shifted(tensors, _through_encoder(tensors))


def uncentred(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights whose input is x, from those whose input is x - b_dec."""
    return _shifted(tensors, -_through_encoder(tensors))


def unscaled_input(
    tensors: Mapping[str, Tensor], *, scale: float, center: Tensor
) -> dict[str, Tensor]:
    """Return a transcoder whose input is x, from one whose input is scale (x - center).

    So W_enc and W_skip take the scale, and what they make of the center goes to the
    biases; thresholds stay as they are.
    """
    W_enc = tensors["W_enc"].double() * scale
    changed = {"W_enc": W_enc.float()}
    if "W_skip" in tensors:
        W_skip = tensors["W_skip"].double() * scale
        b_dec = tensors["b_dec"].double() - center.double() @ W_skip
        changed |= {"W_skip": W_skip.float(), "b_dec": b_dec.float()}
    return _shifted({**tensors, **changed}, -(center.double() @ W_enc))


def unscaled_dimensions(
    tensors: Mapping[str, Tensor], factors: Tensor
) -> dict[str, Tensor]:
    """Return weights whose input is x, from those whose input is x * factors.

    (x f - b_dec) W_enc = (x - b_dec / f) (f W_enc), so biases of the encoder and
    thresholds stay as they are.
    """
    changed = {
        "W_enc": tensors["W_enc"] * factors[:, None],
        "W_dec": tensors["W_dec"] / factors,
        "b_dec": tensors["b_dec"] / factors,
    }
    return {**tensors, **{name: tensor.float() for name, tensor in changed.items()}}


def unit_decoder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an SAE with a unit-norm decoder, from one that is rescaled as it runs.

    The rescaled SAE selects from z n and decodes acts / n, with n the norms of the
    rows of W_dec. So W_enc and b_enc take the factor n, and W_dec loses it. What a
    threshold is compared with is z n, so a threshold stays as it is.
    """
    norm = decoder_norms(tensors)
    changed = {
        "W_enc": tensors["W_enc"] * norm,
        "b_enc": tensors["b_enc"] * norm,
        "W_dec": tensors["W_dec"] / norm[:, None],
    }
    return {**tensors, **{name: tensor.float() for name, tensor in changed.items()}}


def decoder_norms(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the norms of decoder rows in float64, none of them zero."""
    norm: Tensor = tensors["W_dec"].double().norm(dim=1)
    return norm.clamp_min(_LEAST_NORM)


def _through_encoder(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return what the encoder makes of b_dec, in float64: it may be large."""
    return tensors["b_dec"].double() @ tensors["W_enc"].double()


def _shifted(tensors: Mapping[str, Tensor], shift: Tensor) -> dict[str, Tensor]:
    shifts = {"b_enc": shift, "b_gate": shift}
    if "r_mag" in tensors:
        shifts["b_mag"] = shift * tensors["r_mag"].double().exp()
    changed = {
        name: (tensors[name] + by).float()
        for name, by in shifts.items()
        if name in tensors
    }
    return {**tensors, **changed}
