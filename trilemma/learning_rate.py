"""The learning rate: its peak follows from the width, then it rises and falls."""

import math

from trilemma.config.saes import SAEConfig
from trilemma.config.training import Training


def peak(config: SAEConfig) -> float:
    """Return the peak: the SAE's own, or 2e-4 / sqrt(d_sae / 2^14).

    The default is that of dictionary_learning, fitted to Gao et al. (2024), "Scaling
    and evaluating sparse autoencoders", figure 3.
    """
    return config.lr or 2e-4 / math.sqrt(config.d_sae / 2**14)


def at(peak: float, shared: Training, *, step: int, num_steps: int) -> float:
    """Return the learning rate of a step, counted from 0."""
    warmup = shared.warmup_fraction * num_steps
    decay = shared.decay_fraction * num_steps
    rising = (step + 1) / warmup if warmup > 0 else 1.0
    falling = (num_steps - step) / decay if decay > 0 else 1.0
    return peak * min(1.0, rising, falling)
