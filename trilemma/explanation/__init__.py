"""Explanations of latents: evidence, executable predicates, held-out scores."""

from trilemma.explanation.latents import (
    LatentExplanation,
    explain_latents,
    explain_with,
)
from trilemma.explanation.rows import LeakedSplitError
from trilemma.explanation.sampling import sample_latents

__all__ = [
    "LatentExplanation",
    "LeakedSplitError",
    "explain_latents",
    "explain_with",
    "sample_latents",
]
