"""MonoScore: how alike the rows are on which a latent fires, by their embeddings.

Pach et al. (2025, arXiv 2504.02821): the mean cosine of two rows, weighed by the
product of a latent's activations on them, each scaled to [0, 1]. No pair is formed
("MonoLoss", arXiv 2602.12403): with unit embeddings e_n, w = sum a_n e_n, u = sum a_n
and v = sum a_n^2, it is (|w|^2 - v) / (u^2 - v).

A merge of two concepts that fires only where both occur *raises* it, since those rows
are more alike than the rows of either. It sees a merge that fires where either does.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional

from trilemma.metrics import scalar
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.streaming import Batch
from trilemma.metrics.sums import add_at

METRIC_VERSION = 1
# Share of the squares before scaling that pairs must have: below it there are only
# roundings, as of a latent that is equally strong on every row.
_LEAST_PAIRS = 1e-9
_PENDING_ROWS = 4096


class Scores(NamedTuple):
    """The score of each latent, and what it is by chance."""

    score: Float64[np.ndarray, " d_sae"]
    """NaN where fewer than two rows have a scaled activation above zero."""
    base_rate: float | None
    """Mean cosine of two rows: what any latent's score is on average if its activations
    are dealt anew among rows, since each pair then meets each weight equally often."""


class MonoScore:
    """The measure behind it: one pass, memory of d_sae x width.

    A mean is the same at any scale of its weights, so scaling to [0, 1] only subtracts
    the smallest activation, and what that does to the sums is known when the pass ends.
    A row whose embedding is zero has a cosine of zero with every other.
    """

    def __init__(
        self,
        d_sae: int,
        width: int,
        *,
        embed: Callable[[Batch], Float[Tensor, "row width"]],
        device: torch.device,
    ) -> None:
        self._embed = embed
        zeros = torch.zeros(d_sae, dtype=torch.float64, device=device)
        self._num_rows = 0
        self._all_rows = zeros.new_zeros(width)
        self._all_norms = zeros.new_zeros(())
        self._weighted = zeros.new_zeros(d_sae, width)
        self._sums = zeros.new_zeros(d_sae, 5)
        self._smallest = torch.full_like(zeros, torch.inf)
        self._pending: list[tuple[Tensor, ...]] = []
        self._num_pending = 0

    def add(self, batch: Batch) -> None:
        """Take in the activations of a batch and the embeddings of its rows."""
        rows = functional.normalize(self._embed(batch).double(), dim=1)
        norm = rows.square().sum(1)
        self._num_rows += len(rows)
        self._all_rows += rows.sum(0)
        self._all_norms += norm.sum()
        a, h = batch.value.double(), norm[batch.row]
        terms = torch.stack([torch.ones_like(a), a, a * a, a * h, a * a * h], dim=1)
        add_at(self._sums, batch.latent, terms)
        self._smallest.scatter_reduce_(0, batch.latent, a, "amin")
        row = batch.row + self._num_pending
        self._pending.append((rows, row, batch.latent.int(), a))
        self._num_pending += len(rows)
        # One addition to all of d_sae x width takes as long as many rows.
        if self._num_pending >= _PENDING_ROWS:
            self._take_pending()

    def _take_pending(self) -> None:
        if not self._pending:
            return
        rows, row, latent, acts = map(torch.cat, zip(*self._pending, strict=True))
        by_latent = latent.argsort(stable=True)
        count = torch.bincount(latent, minlength=len(self._smallest))
        self._weighted += functional.embedding_bag(
            row[by_latent],
            rows,
            count.cumsum(0) - count,
            mode="sum",
            per_sample_weights=acts[by_latent],
        )
        self._pending, self._num_pending = [], 0

    def scores(self) -> Scores:
        """Return the score of each latent over the rows so far."""
        self._take_pending()
        n, all_rows, all_norms = self._num_rows, self._all_rows, self._all_norms
        num_fired, u, v, u_norms, v_norms = self._sums.unbind(1)
        # Where a latent was silent its activation is zero.
        low = self._smallest.where(num_fired == n, self._smallest.clamp_max(0))
        low = low.where(num_fired > 0, 0)
        w = self._weighted - low[:, None] * all_rows
        same = v_norms - 2 * low * u_norms + low.square() * all_norms
        v = v - 2 * low * u + low.square() * n
        u = u - low * n
        pairs = u.square() - v
        score = (w.square().sum(1) - same) / pairs
        least = _LEAST_PAIRS * (u.square() + n * low.square())
        score = score.where(pairs > least, torch.nan)
        base_rate = None
        if n > 1:
            base_rate = float((all_rows.square().sum() - all_norms) / (n * (n - 1)))
        return Scores(score.cpu().numpy(), base_rate)


def scalars(scores: Scores, name: str, *, embedding: str) -> dict[str, Scalar]:
    """Return `monoscore_<name>` and how much of it is more than chance."""
    base = np.nan if scores.base_rate is None else scores.base_rate
    method = f"mean cosine of {embedding} over pairs of rows, weighed by activations"
    return {
        f"monoscore_{name}{suffix}": scalar.mean_of(
            values,
            method=what,
            version=METRIC_VERSION,
            reason="no latent has two rows that differ from its smallest activation",
        )
        for suffix, values, what in (
            ("", scores.score, method),
            ("_excess", scores.score - base, f"{method}, less the mean of all pairs"),
        )
    }
