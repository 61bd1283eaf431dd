"""The pass over held-out rows: each batch is coded once and shown to every measure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from trilemma import allocation
from trilemma.metrics import coders
from trilemma.metrics.baseline import Rows
from trilemma.metrics.coders import Coder

_GIVE_BACK_BLOCKS = 16
"""After so many free memory goes back: seldom, for its pages are then cleared anew."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows and their code; tensors are on the coder's device.

    What several measures need is computed for the first and kept for the others.
    """

    rows: Rows
    """Where the rows stand: their documents and positions."""
    x: Float[Tensor, "row d_in"]
    """What is reconstructed: of a transcoder its target, not what it reads."""
    x_hat: Float[Tensor, "row d_in"]
    row: Int64[Tensor, " entry"]
    """Row of each nonzero activation, counted in this batch; increasing."""
    latent: Int64[Tensor, " entry"]
    """Its latent; increasing within a row."""
    value: Float[Tensor, " entry"]

    @cached_property
    def document(self) -> Int64[Tensor, " row"]:
        """Return the document of each row, as an index into the baseline's."""
        return torch.from_numpy(self.rows.document).to(self.x.device)

    @cached_property
    def position(self) -> Int64[Tensor, " row"]:
        """Return which row of the held-out split each is."""
        return torch.from_numpy(self.rows.position).to(self.x.device)

    @cached_property
    def num_firings(self) -> Int64[Tensor, " row"]:
        """Return how many entries each row has."""
        return torch.bincount(self.row, minlength=len(self.x))

    @cached_property
    def size(self) -> Float64[Tensor, " entry"]:
        """Return the absolute value of each entry."""
        return self.value.double().abs()


class Measure(Protocol):
    """What adds up something over rows, in memory that does not grow with them."""

    def add(self, batch: Batch) -> None:
        """Take a batch into the sums; batches come in the order of rows."""


@torch.inference_mode()
def stream(coder: Coder, batches: Iterable[Rows], measures: Sequence[Measure]) -> None:
    """Show the code of every row to each measure, a bounded block of rows at a time."""
    device = coder.W_dec.device
    blocks = _blocks(batches, coders.block_rows(len(coder.W_dec)))
    for index, rows in enumerate(blocks):
        if index % _GIVE_BACK_BLOCKS == 0:
            allocation.give_back()
        x = rows.x.to(device)
        coded = coders.code(coder, x if rows.read is None else rows.read.to(device))
        row, latent, value = coded.entries
        batch = Batch(rows, x, coded.x_hat, row, latent, value.float())
        for measure in measures:
            measure.add(batch)
    allocation.give_back()


def _blocks(batches: Iterable[Rows], size: int) -> Iterator[Rows]:
    for rows in batches:
        for start in range(0, len(rows.x), size):
            part = slice(start, start + size)
            yield Rows(
                rows.x[part],
                rows.document[part],
                rows.position[part],
                rows.sequences,
                rows.kept[part],
                None if rows.read is None else rows.read[part],
            )
