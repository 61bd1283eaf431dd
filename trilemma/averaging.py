"""A running mean of the weights, which is exported in their place (`ema_decay`)."""

from torch import Tensor
from torch.nn import functional


def decay_at(decay: float, step: int) -> float:
    """Return the decay of a running mean at a step, counted from 0.

    It is a mean over about the recent tenth until the decay takes over, so that a
    short run does not average over its own beginnings.
    """
    return min(decay, step / (step + 10))


def update(means: dict[str, Tensor], weights: dict[str, Tensor], decay: float) -> None:
    """Draw the means towards the weights of their names."""
    for name, mean in means.items():
        mean.lerp_(weights[name], 1 - decay)


def exported(means: dict[str, Tensor], *, has_unit_decoder: bool) -> dict[str, Tensor]:
    """Return the means as they are exported: a mean of unit rows is made a unit row."""
    if has_unit_decoder and "W_dec" in means:
        return means | {"W_dec": functional.normalize(means["W_dec"], dim=1)}
    return means
