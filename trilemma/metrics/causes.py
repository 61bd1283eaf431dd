"""What an LM does when latents are taken out of an activation, or one is added."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from trilemma.config.stages import Evaluation
from trilemma.metrics import additivity, steering
from trilemma.metrics.coders import Coder
from trilemma.metrics.fidelity import SplicedLM
from trilemma.metrics.scalar import Scalar
from trilemma.sequences import Sequences


class Causes(NamedTuple):
    """Effects of latents on predictions."""

    metrics: dict[str, Scalar]
    columns: dict[str, Float64[np.ndarray, " d_sae"]]
    """NaN for latents that were not steered."""
    num_runs: int
    """Sequences that the LM read for it."""


def causes(
    coder: Coder,
    lm: SplicedLM,
    config: Evaluation,
    batches: Callable[[], Iterator[Sequences]],
    *,
    hook: str,
    documents: Int64[np.ndarray, " document"],
    num_fired: Int64[np.ndarray, " d_sae"],
    sum_acts: Float64[np.ndarray, " d_sae"],
    reads: Callable[[], Iterator[Sequences]] | None = None,
) -> Causes:
    """Return how effects of latents add up, and what steering by live ones does.

    Those that are steered are drawn by seed among the live ones; each is added at its
    mean activation when firing. `reads` are those of `fidelity.splices`.
    """
    gaps = additivity.gaps(
        coder,
        lm,
        batches(),
        hook=hook,
        documents=documents,
        num_seqs=config.cause_seqs,
        num_latents=config.cause_latents,
        batch_seqs=config.batch_seqs,
        seed=config.seed,
        reads=reads and reads(),
    )
    dealt = np.random.default_rng(config.seed).permutation(np.flatnonzero(num_fired))
    latents = np.sort(dealt[: config.cause_latents])
    strength = sum_acts[latents] / num_fired[latents]
    effects = steering.effects(
        coder,
        lm,
        batches(),
        hook=hook,
        documents=documents,
        latents=latents,
        strength=strength,
        num_seqs=config.cause_seqs,
        batch_seqs=config.batch_seqs,
        seed=config.seed,
    )
    return Causes(
        additivity.scalars(gaps, config) | steering.scalars(effects, config),
        steering.columns(effects, latents, strength, d_sae=len(num_fired)),
        gaps.num_runs + effects.num_runs,
    )
