"""Semantic consistency: does a latent fire on rows of one class?

Of a latent's firings, the share on rows of the most frequent class: the class
consistency of Wang et al. (2024, arXiv 2403.12459), as the WSAE paper (arXiv
2506.15963) uses it. A class may be a token's kind, a context cluster, or any column
of labels.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64, Integer
from torch import Tensor

from trilemma.metrics import scalar
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.streaming import Batch

METRIC_VERSION = 1
_NUM_DEALS = 32


class Consistency(NamedTuple):
    """How consistent each latent is, and would be by chance; NaN where it is silent."""

    share: Float64[np.ndarray, " d_sae"]
    """Share of a latent's firings that are in its most frequent class."""
    null: Float64[np.ndarray, " d_sae"]
    """The same for equally many firings whose classes are drawn from all rows."""


class Classes:
    """The measure that counts each latent's firings by class."""

    def __init__(
        self,
        d_sae: int,
        num_classes: int,
        *,
        classes: Callable[[Batch], Int64[Tensor, " row"]],
        device: torch.device,
    ) -> None:
        self._classes = classes
        self._rows = torch.zeros(num_classes, dtype=torch.int64, device=device)
        self._firings = self._rows.new_zeros(d_sae * num_classes)

    def add(self, batch: Batch) -> None:
        """Count the firings of a batch."""
        found, num_classes = self._classes(batch), len(self._rows)
        self._rows += torch.bincount(found, minlength=num_classes)
        place = batch.latent * num_classes + found[batch.row]
        self._firings += torch.bincount(place, minlength=len(self._firings))

    def consistency(self, *, seed: int) -> Consistency:
        """Return how consistent the latents are over the rows so far."""
        rows = self._rows.cpu().numpy()
        firings = self._firings.reshape(-1, len(rows)).cpu().numpy()
        fired = firings.sum(1)
        generator = np.random.default_rng(seed)
        num, latent = np.unique(fired, return_inverse=True)
        dealt = [
            generator.multinomial(num, rows / rows.sum()).max(1)
            for _ in range(_NUM_DEALS)
        ]
        count = np.where(fired > 0, fired, np.nan)
        null = np.mean(dealt, axis=0)[latent]
        return Consistency(firings.max(1) / count, null / count)


def scalars(
    found: Consistency, name: str, *, label: str, seed: int
) -> dict[str, Scalar]:
    """Return `consistency_<name>` and what it is by chance."""
    method = f"share of a latent's firings with its most frequent {label}"
    return {
        f"consistency_{name}{suffix}": scalar.mean_of(
            values,
            method=what,
            version=METRIC_VERSION,
            reason="no latent fired",
            seed=seed,
        )
        for suffix, values, what in (
            ("", found.share, method),
            ("_null", found.null, f"{method}, by chance"),
        )
    }


def by_position(
    labels: Integer[Tensor, " split"],
) -> Callable[[Batch], Int64[Tensor, " row"]]:
    """Return the classes of a column that has a label for every row of the split."""

    def classes(batch: Batch) -> Int64[Tensor, " row"]:
        found = labels[torch.from_numpy(batch.rows.position)]
        return found.to(batch.row.device, torch.int64)

    return classes


def by_token(
    class_of: Int64[Tensor, " vocab"],
) -> Callable[[Batch], Int64[Tensor, " row"]]:
    """Return the classes of tokens, whose ids the table holds."""

    def classes(batch: Batch) -> Int64[Tensor, " row"]:
        tokens = batch.rows.sequences.tokens.reshape(-1)[batch.rows.kept]
        return class_of[tokens].to(batch.row.device)

    return classes
