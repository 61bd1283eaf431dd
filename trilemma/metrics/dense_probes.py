"""Probes of the activations themselves: what a probe of an SAE's code can reach."""

from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from trilemma.metrics import probing
from trilemma.metrics.probe_tasks import Labeller
from trilemma.metrics.reservoir import Reservoir, hashed
from trilemma.sequences import Sequences


class DenseProbes(NamedTuple):
    """Which rows are probed, and how well all dimensions tell each task of them."""

    cut: Int64[Tensor, ""]
    """Largest hash of a position that is probed."""
    auroc: Float64[Tensor, " task"]
    left_out: Float64[Tensor, "block task"]
    """The same without each block of documents in turn."""


class DenseRows:
    """A bounded sample of the rows that count, with their labels.

    The documents are numbered as in the whole split, whose documents it has to be told.
    """

    def __init__(self, labeller: Labeller, num_rows: int, *, seed: int) -> None:
        self._labeller, self._seed = labeller, seed
        self._num_seen = 0
        self._rows = Reservoir(1, num_rows, seed=seed, device=torch.device("cpu"))

    def add(self, batch: Sequences) -> None:
        """Take in the sequences of a batch."""
        kept = (batch.mask.reshape(-1) == 0).nonzero()[:, 0]
        x, document = batch.x.flatten(0, 1), batch.document.reshape(-1)

        def facts(chosen: Int64[Tensor, " chosen"]) -> tuple[Tensor, ...]:
            here = kept[chosen]
            labels = torch.from_numpy(self._labeller.labels(batch))
            return x[here].float(), document[here], labels[here]

        self._rows.add(torch.zeros_like(kept), self._num_seen + kept, facts)
        self._num_seen += batch.mask.numel()

    def probes(self, documents: Int64[Tensor, " document"]) -> DenseProbes:
        """Return what probes of all dimensions reach on the rows that were kept."""
        kept = self._rows.kept()
        x, document, labels = kept.facts
        found = probing.probe(
            x.numpy(),
            labels.numpy(),
            torch.searchsorted(documents, document).numpy(),
            ks=(None,),
            seed=self._seed,
        )
        return DenseProbes(
            hashed(kept.position, seed=self._seed).max(),
            torch.from_numpy(found.auroc[:, 0].copy()),
            torch.from_numpy(found.left_out[:, :, 0].copy()),
        )
