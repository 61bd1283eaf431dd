"""Liveness: which latents are alive, which dead, and which cannot be told apart yet."""

import numpy as np
from jaxtyping import Int64, Shaped

METRIC_VERSION = 1
STATES = ("alive", "dead", "undetermined")


def states(
    num_fired: Int64[np.ndarray, " d_sae"], *, num_tokens: int, dead_density: float
) -> Shaped[np.ndarray, " d_sae"]:
    """Return `alive`, `dead` or `undetermined` for each latent.

    A latent that fired is alive. One that never fired in n tokens has, at 95 %
    confidence, a density below 3/n (the rule of three; Hanley and Lippman-Hand 1983):
    it is dead if that is at most `dead_density`, and undetermined otherwise.
    """
    silent = "dead" if 3 / num_tokens <= dead_density else "undetermined"
    return np.where(num_fired > 0, "alive", silent)
