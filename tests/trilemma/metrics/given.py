"""Codes that are given, as rows that a pass can show to measures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trilemma.metrics.baseline import Rows
from trilemma.metrics.streaming import Measure, stream
from trilemma.sequences import Sequences


@dataclass
class Given:
    """An SAE that finds its code in the first columns of x."""

    d_sae: int

    @property
    def W_dec(self) -> Tensor:
        return torch.eye(self.d_sae)

    def encode(self, x: Tensor) -> Tensor:
        return x[:, : self.d_sae]

    def decode(self, acts: Tensor) -> Tensor:
        return acts


def show(
    acts: Tensor,
    measure: Measure,
    *,
    beside: Tensor | None = None,
    tokens: Tensor | None = None,
    document: Tensor | None = None,
    sizes: Sequence[int] | None = None,
) -> None:
    """Show a code to a measure, with further columns of x beside it."""
    x = acts if beside is None else torch.cat([acts, beside], dim=1)
    tokens = torch.zeros(len(x), dtype=torch.int64) if tokens is None else tokens
    if document is None:
        document = torch.arange(len(x)) * 40 // max(len(x), 1)
    stream(
        Given(acts.shape[1]),
        _rows(x, tokens, document, sizes or [len(x)]),
        [measure],
    )


def one_sequence(
    x: Tensor,
    document: np.ndarray,
    position: np.ndarray,
    *,
    tokens: Tensor | None = None,
) -> Rows:
    """Return rows that are all of one sequence."""
    kept = torch.arange(len(x))
    tokens = torch.zeros_like(kept) if tokens is None else tokens
    whole = Sequences(
        tokens=tokens[None],
        document=torch.from_numpy(document)[None],
        mask=torch.zeros(1, len(x), dtype=torch.uint8),
        x=x[None],
    )
    return Rows(x, document, position, whole, kept)


def _rows(
    x: Tensor, tokens: Tensor, document: Tensor, sizes: Sequence[int]
) -> Iterator[Rows]:
    assert sum(sizes) == len(x)
    start = 0
    for size in sizes:
        part, position = slice(start, start + size), np.arange(start, start + size)
        yield one_sequence(
            x[part], document[part].numpy(), position, tokens=tokens[part]
        )
        start += size
