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


def _rows(
    x: Tensor, tokens: Tensor, document: Tensor, sizes: Sequence[int]
) -> Iterator[Rows]:
    assert sum(sizes) == len(x)
    start = 0
    for size in sizes:
        part = slice(start, start + size)
        whole = Sequences(
            tokens=tokens[part][None],
            document=document[part][None],
            mask=torch.zeros(1, size, dtype=torch.uint8),
            x=x[part][None],
        )
        yield Rows(
            x=x[part],
            document=document[part].numpy(),
            position=np.arange(start, start + size),
            sequences=whole,
            kept=torch.arange(size),
        )
        start += size
