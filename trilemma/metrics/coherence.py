"""Embedding coherence: are contexts of equal strength more alike than silent ones?

After the embedding scorer of delphi (EleutherAI), whose queries are compared with
examples of their own activation decile and with silent ones; here contexts are vectors
already, all pairs are taken, and no language model is asked.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn import functional

from trilemma.metrics import intervals, scalar
from trilemma.metrics.intervals import SHARE, Bounds
from trilemma.metrics.reservoir import Reservoir
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.streaming import Batch

METRIC_VERSION = 1
NUM_LATENTS = 256
"""Latents that are drawn, at most: their embeddings are kept."""
NUM_DECILES = 10
_PER_DECILE = 10
_SILENT_ROWS = 1000


class Coherence(NamedTuple):
    """What was found about the drawn latents with enough firings, one entry each."""

    latent: Int64[np.ndarray, " drawn"]
    delta_plus: Float64[np.ndarray, " drawn"]
    """Mean cosine of two firings of a decile, less that of a firing and silence."""
    delta_minus: Float64[np.ndarray, " drawn"]
    """Mean cosine of a silent row and a firing, less that of two silent rows."""
    solved: Float64[np.ndarray, " drawn"]
    """Share of deciles in which `delta_plus` exceeds `delta_minus`."""


class Examples:
    """The measure that keeps firings of drawn latents, and rows for their silence.

    Memory is NUM_LATENTS x 100 embeddings, and a thousand.
    """

    def __init__(
        self,
        d_sae: int,
        *,
        embed: Callable[[Batch], Float[Tensor, "row width"]],
        seed: int,
        device: torch.device,
    ) -> None:
        drawn = np.random.default_rng(seed).permutation(d_sae)[:NUM_LATENTS]
        self._embed = embed
        self._latents = torch.from_numpy(np.sort(drawn)).to(device)
        self._index = torch.full((d_sae,), -1, device=device)
        self._index[self._latents] = torch.arange(len(drawn), device=device)
        size = NUM_DECILES * _PER_DECILE
        self._firings = Reservoir(len(drawn), size, seed=seed, device=device)
        self._rows = Reservoir(1, _SILENT_ROWS, seed=seed, device=device)

    def add(self, batch: Batch) -> None:
        """Take in the rows of a batch, and the drawn latents' firings on them."""
        embedded = functional.normalize(self._embed(batch).float(), dim=1)
        position = batch.position
        index = self._index[batch.latent]
        kept = (index >= 0).nonzero()[:, 0]
        row, index = batch.row[kept], index[kept]
        size = batch.value[kept].abs()
        self._firings.add(
            index, position[row], lambda at: (size[at], embedded[row[at]])
        )
        fires = torch.zeros(
            len(embedded), len(self._latents), dtype=torch.bool, device=index.device
        )
        fires[row, index] = True
        self._rows.add(
            torch.zeros_like(position), position, lambda at: (fires[at], embedded[at])
        )

    def coherence(self) -> Coherence:
        """Return the coherence of each drawn latent that fired a hundred times."""
        firings, rows = self._firings.kept(), self._rows.kept()
        size, embedded = firings.facts
        fires, others = rows.facts
        found = []
        for index, latent in enumerate(self._latents.tolist()):
            own = firings.group == index
            silent = others[~fires[:, index]].double()
            if own.sum() < NUM_DECILES * _PER_DECILE or len(silent) <= 1:
                continue
            # Equally strong ones stay in the random order of the reservoir.
            order = size[own].argsort(stable=True, descending=True)
            deciles = (
                embedded[own][order].double().reshape(NUM_DECILES, _PER_DECILE, -1)
            )
            alike = _mean_within(deciles)
            across = deciles.mean(1) @ silent.mean(0)
            plus, minus = alike - across, across - _mean_within(silent)
            solved = (plus > minus).double().mean()
            found.append((latent, *map(float, (plus.mean(), minus.mean(), solved))))
        columns = np.array(found, dtype=np.float64).reshape(len(found), 4).T
        return Coherence(columns[0].astype(np.int64), *columns[1:])


def scalars(found: Coherence, *, num_resamples: int, seed: int) -> dict[str, Scalar]:
    """Return means over the drawn latents, with intervals for having drawn these."""
    of_two_cosines = Bounds(-2.0, 2.0)
    methods = {
        "delta_plus": (
            "cosine of contexts: two firings, less firing and silence",
            of_two_cosines,
        ),
        "delta_minus": (
            "cosine of contexts: silence and firing, less two silences",
            of_two_cosines,
        ),
        "solved": (
            "share of deciles in which delta_plus exceeds delta_minus",
            SHARE,
        ),
    }
    metrics = {}
    for name, (method, bounds) in methods.items():
        values: Float64[np.ndarray, " drawn"] = getattr(found, name)
        interval = intervals.bootstrap_ratio(
            values,
            np.ones_like(values),
            num_resamples=num_resamples,
            seed=seed,
            bounds=bounds,
        )
        metrics[f"coherence_{name}"] = scalar.pure_number(
            interval.value,
            interval[1:],
            n=len(values),
            method=f"{method}; mean over latents, bootstrap of at most {NUM_LATENTS} "
            "drawn",
            version=METRIC_VERSION,
            reason=f"no latent that was drawn fired on {NUM_DECILES * _PER_DECILE} "
            "tokens and was silent on two",
            seed=seed,
        )
    return metrics


def _mean_within(
    unit: Float64[Tensor, "*groups row width"],
) -> Float64[Tensor, "*groups"]:
    """Return the mean cosine of two different rows of each group."""
    num_rows = unit.shape[-2]
    same = unit.square().sum((-2, -1))
    return (unit.sum(-2).square().sum(-1) - same) / (num_rows * (num_rows - 1))
