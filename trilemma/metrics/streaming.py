"""The pass over held-out rows: each batch is coded once and shown to every measure."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from trilemma.metrics.baseline import Rows
from trilemma.metrics.coders import Coder


class Batch(NamedTuple):
    """Some rows and their code; tensors are on the coder's device."""

    rows: Rows
    """Where the rows stand: their documents and positions."""
    x: Float[Tensor, "row d_in"]
    x_hat: Float[Tensor, "row d_in"]
    row: Int64[Tensor, " entry"]
    """Row of each nonzero activation, counted in this batch; increasing."""
    latent: Int64[Tensor, " entry"]
    value: Float32[Tensor, " entry"]


class Measure(Protocol):
    """What adds up something over rows, in memory that does not grow with them."""

    def add(self, batch: Batch) -> None:
        """Take a batch into the sums; batches come in the order of rows."""


@torch.inference_mode()
def stream(coder: Coder, batches: Iterable[Rows], measures: Sequence[Measure]) -> None:
    """Show the code of every row to each measure; memory is one batch's dense code."""
    device = coder.W_dec.device
    for rows in batches:
        x = rows.x.to(device)
        acts = coder.encode(x)
        x_hat = coder.decode(acts)
        row, latent = acts.nonzero(as_tuple=True)
        batch = Batch(rows, x, x_hat, row, latent, acts[row, latent].float())
        for measure in measures:
            measure.add(batch)
