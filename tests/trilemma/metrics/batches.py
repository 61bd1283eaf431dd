"""Batches of a given code, as the pass over held-out rows shows them to measures."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tests.trilemma.metrics.given import one_sequence
from trilemma.metrics.streaming import Batch


def batch_of(acts: Tensor, document: np.ndarray) -> Batch:
    """Return one batch; its activations are of no account."""
    row, latent = acts.nonzero(as_tuple=True)
    x = torch.zeros(len(acts), 2)
    rows = one_sequence(x, document, np.arange(len(acts)))
    return Batch(rows, x, x, row, latent, acts[row, latent])


def cut(acts: Tensor, document: np.ndarray, sizes: list[int]) -> Iterator[Batch]:
    """Yield batches of the given numbers of rows, which together are all rows."""
    start = 0
    for size in sizes:
        part = slice(start, start + size)
        yield batch_of(acts[part], document[part])
        start += size
    assert start == len(acts)
