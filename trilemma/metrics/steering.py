"""Steering: what adding one latent's direction does to the LM's predictions.

A direction of random sense and equal length is added too: what matters of a latent is
how much more it moves than that. The measure is proposed here.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch.nn import functional

from trilemma.config.stages import Evaluation
from trilemma.metrics import fidelity, intervals
from trilemma.metrics.coders import Coder
from trilemma.metrics.fidelity import SplicedLM
from trilemma.metrics.scalar import Scalar
from trilemma.sequences import Sequences

METRIC_VERSION = 1


class Effects(NamedTuple):
    """Sums over the predictions of each document, for each steered latent."""

    num_tokens: Float64[np.ndarray, " document"]
    kl: Float64[np.ndarray, "document latent"]
    """KL(clean | steered) in nats."""
    shifted: Float64[np.ndarray, "document latent"]
    """Predictions whose most likely token is another one."""
    random_kl: Float64[np.ndarray, "document latent"]
    """As `kl`, of the random direction."""
    num_runs: int
    """Sequences that the LM read."""


def effects(
    coder: Coder,
    lm: SplicedLM,
    batches: Iterable[Sequences],
    *,
    hook: str,
    documents: Int64[np.ndarray, " document"],
    latents: Int64[np.ndarray, " latent"],
    strength: Float64[np.ndarray, " latent"],
    num_seqs: int,
    batch_seqs: int,
    seed: int,
) -> Effects:
    """Return what each latent does when `strength` of it is added to every token.

    Masked tokens are left alone, and only predictions from the others count.
    """
    rows = torch.from_numpy(latents).to(coder.W_dec.device)
    factor = torch.from_numpy(strength).to(coder.W_dec)
    added = factor[:, None] * coder.W_dec[rows]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(added.shape, generator=generator).to(added)
    random = functional.normalize(drawn, dim=1) * added.norm(dim=1, keepdim=True)
    num_tokens = np.zeros(len(documents))
    sums = np.zeros((len(documents), len(latents), 3))
    num_runs = 0
    for batch in fidelity.first_seqs(batches, num_seqs, batch_seqs):
        clean = lm.logits(batch.tokens)
        kept = batch.mask[:, :-1] == 0
        document = np.searchsorted(documents, batch.document[:, :-1][kept].numpy())
        np.add.at(num_tokens, document, 1.0)
        num_runs += len(batch.tokens) * (1 + 2 * len(latents))

        for index, (own, other) in enumerate(zip(added, random, strict=True)):
            steered = fidelity.logits_with(lm, hook, batch, batch.x + own.to(batch.x))
            columns = [
                fidelity.divergence(clean, steered),
                1 - fidelity.agreement(clean, steered),
            ]
            steered = fidelity.logits_with(lm, hook, batch, batch.x + other.to(batch.x))
            columns.append(fidelity.divergence(clean, steered))
            np.add.at(sums[:, index], document, torch.stack(columns, -1)[kept].numpy())
    kl, shifted, random_kl = np.moveaxis(sums, 2, 0)
    return Effects(num_tokens, kl, shifted, random_kl, num_runs)


def scalars(found: Effects, config: Evaluation) -> dict[str, Scalar]:
    """Return the mean effects of the steered latents, and of random directions."""
    num_latents = found.kl.shape[1]
    reason = "no token was counted" if num_latents else "no latent fired"
    added = "its mean activation when firing added to every token"
    columns = {
        "steer_kl": (
            found.kl,
            "nats/token",
            f"KL(clean | steered), {added}",
            intervals.NOT_NEGATIVE,
        ),
        "steer_kl_random": (
            found.random_kl,
            "nats/token",
            "the same, along a random direction of that length",
            intervals.NOT_NEGATIVE,
        ),
        "steer_top1_shift": (
            found.shifted,
            "1",
            f"share of most likely tokens that change, {added}",
            intervals.SHARE,
        ),
    }
    scalars = {}
    for name, (sums, unit, method, bounds) in columns.items():
        interval = intervals.bootstrap_ratio(
            sums.sum(1),
            found.num_tokens * num_latents,
            num_resamples=config.num_resamples,
            seed=config.seed,
            bounds=bounds,
        )
        scalars[name] = Scalar(
            *interval,
            n=int(found.num_tokens.sum()),
            unit=unit,
            method=f"{method}; mean over {num_latents} live latents; "
            "studentised document bootstrap",
            metric_version=METRIC_VERSION,
            seed=config.seed,
            reason=reason if interval.value is None else None,
        )
    return scalars


def columns(
    found: Effects,
    latents: Int64[np.ndarray, " latent"],
    strength: Float64[np.ndarray, " latent"],
    *,
    d_sae: int,
) -> dict[str, Float64[np.ndarray, " d_sae"]]:
    """Return effects per unit of activation; NaN for latents that were not steered."""
    effects = {"steer_kl": found.kl, "steer_top1_shift": found.shifted}
    filled = {name: np.full(d_sae, np.nan) for name in effects}
    if found.num_tokens.any():
        for name, sums in effects.items():
            filled[name][latents] = sums.sum(0) / found.num_tokens.sum() / strength
    return filled
