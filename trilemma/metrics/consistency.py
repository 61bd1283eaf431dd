"""Semantic consistency: does a latent fire on rows of one class?

Of a latent's firings, the share on rows of the most frequent class: the class
consistency of Wang et al. (2024, arXiv 2403.12459), as the WSAE paper (arXiv
2506.15963) uses it. A class may be a token's kind, a context cluster, or what a column
of labels says of the row's document. The nulls are proposed here.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int32, Int64, Integer
from torch import Tensor

from trilemma.metrics import scalar
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.streaming import Batch

METRIC_VERSION = 1
_NUM_DEALS = 32
_NUM_DOCUMENT_DEALS = 4  # each costs as much as the measure itself


class Consistency(NamedTuple):
    """How consistent each latent is, and would be by chance; NaN where it is silent."""

    share: Float64[np.ndarray, " d_sae"]
    """Share of a latent's firings that are in its most frequent class."""
    null: Float64[np.ndarray, " d_sae"]
    """The same by chance."""
    num_rows: int
    """Rows that have a class."""


class Counts(NamedTuple):
    """How often rows are of each class."""

    rows: Int64[np.ndarray, " num_classes"]
    """All of them."""
    firings: Int64[np.ndarray, "d_sae num_classes"]
    """Those that each latent fires on."""


class Classes:
    """The measure that counts each latent's firings by class; -1 is no class.

    Chance draws the classes of as many firings from all rows.
    """

    def __init__(
        self,
        d_sae: int,
        num_classes: int,
        *,
        classes: Callable[[Batch], Int64[Tensor, " row"]],
        device: torch.device,
    ) -> None:
        self._classes = classes
        # First those of no class.
        self._rows = torch.zeros(1 + num_classes, dtype=torch.int64, device=device)
        self._firings = self._rows.new_zeros(d_sae * len(self._rows))

    def add(self, batch: Batch) -> None:
        """Count the firings of a batch."""
        found, num_counts = self._classes(batch) + 1, len(self._rows)
        self._rows += torch.bincount(found, minlength=num_counts)
        place = batch.latent * num_counts + found[batch.row]
        # In place, for a batch has far fewer entries than there may be places.
        self._firings.index_add_(0, place, torch.ones_like(place))

    def consistency(self, *, seed: int) -> Consistency:
        """Return how consistent the latents are over the rows so far."""
        rows, firings = self.counts()
        fired = firings.sum(1)
        generator = np.random.default_rng(seed)
        num, latent = np.unique(fired, return_inverse=True)
        dealt = [
            generator.multinomial(num, rows / rows.sum()).max(1)
            for _ in range(_NUM_DEALS)
        ]
        count = np.where(fired > 0, fired, np.nan)
        null = np.mean(dealt, axis=0)[latent]
        return Consistency(_share(firings), null / count, int(rows.sum()))

    def counts(self) -> Counts:
        """Return what was counted so far."""
        firings = self._firings.reshape(-1, len(self._rows))
        return Counts(self._rows[1:].cpu().numpy(), firings[:, 1:].cpu().numpy())


class DocumentClasses:
    """The measure that counts each latent's firings by the label of their document.

    Rows of one document have one label, so chance deals the labels anew among the
    documents that have one, a few times: a latent that fires on a single document is
    consistent, and no more so than by chance.
    """

    def __init__(
        self,
        d_sae: int,
        labels: Int32[Tensor, " document"],
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        num_classes = int(labels.max()) + 1
        self._own, *self._dealt = (
            Classes(
                d_sae,
                num_classes,
                classes=_by_document(each.to(device)),
                device=device,
            )
            for each in (labels, *_dealt(labels, seed=seed))
        )

    def add(self, batch: Batch) -> None:
        """Count the firings of a batch."""
        for classes in (self._own, *self._dealt):
            classes.add(batch)

    def consistency(self) -> Consistency:
        """Return how consistent the latents are over the rows so far."""
        rows, firings = self._own.counts()
        null = np.mean([_share(each.counts().firings) for each in self._dealt], axis=0)
        return Consistency(_share(firings), null, int(rows.sum()))


def scalars(
    found: Consistency, name: str, *, label: str, chance: str, seed: int
) -> dict[str, Scalar]:
    """Return `consistency_<name>` and what it is by chance, which is told in words."""
    method = f"share of a latent's firings with its most frequent {label}"
    return {
        f"consistency_{name}{suffix}": scalar.mean_of(
            values,
            method=what,
            version=METRIC_VERSION,
            reason="no latent fired" if found.num_rows else f"no row has a {label}",
            seed=seed,
        )
        for suffix, values, what in (
            ("", found.share, method),
            ("_null", found.null, f"{method}, {chance}"),
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


def _by_document(
    labels: Int32[Tensor, " document"],
) -> Callable[[Batch], Int64[Tensor, " row"]]:
    """Return the classes of rows whose documents have these labels."""
    return lambda batch: labels[batch.document].to(torch.int64)


def _dealt(
    labels: Int32[Tensor, " document"], *, seed: int
) -> Iterator[Int32[Tensor, " document"]]:
    """Yield the labels dealt anew among the documents that have one."""
    generator = torch.Generator().manual_seed(seed)
    known = (labels >= 0).nonzero()[:, 0]
    for _ in range(_NUM_DOCUMENT_DEALS):
        order = torch.randperm(len(known), generator=generator)
        dealt = labels.clone()
        dealt[known] = labels[known[order]]
        yield dealt


def _share(
    firings: Int64[np.ndarray, "d_sae num_classes"],
) -> Float64[np.ndarray, " d_sae"]:
    """Return the share of each latent's firings that are in its main class."""
    fired = firings.sum(1)
    share: Float64[np.ndarray, " d_sae"]
    # There may be no class at all.
    share = firings.max(1, initial=0) / np.where(fired > 0, fired, np.nan)
    return share
