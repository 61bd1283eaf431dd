"""Held-out rows and simple coders, for tests of what a pass over rows adds up."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trilemma.config.stages import Evaluation
from trilemma.metrics import pca
from trilemma.metrics.baseline import Baseline
from trilemma.sequences import Sequences

CONFIG = Evaluation(num_resamples=50)


@dataclass(frozen=True)
class Itself:
    """A coder whose code is the activation itself, so that no product rounds."""

    W_dec: Tensor

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, acts: Tensor) -> Tensor:
        return acts @ self.W_dec


def prepared(x: Tensor, *, num_documents: int = 5, num_labels: int = 3) -> Baseline:
    """Return the baseline of rows in documents of nearly equal length."""
    mean = x.double().mean(0)
    return Baseline(
        documents=torch.arange(num_documents),
        num_tokens=len(x),
        mean=mean,
        labels=torch.arange(len(x)).int() * 7 % num_labels,
        num_labels=num_labels,
        components=pca.fit(x.float(), mean=mean),
        curve=pca.RateCurve(torch.ones(1).double(), torch.zeros(1).double()),
        ce=None,
    )


def batches(
    x: Tensor, sizes: Sequence[int], *, num_documents: int = 5
) -> Iterator[Sequences]:
    """Yield the rows in batches of some sizes, each row a sequence of its own."""
    document = torch.arange(len(x)) * num_documents // len(x)
    parts = (part.split(list(sizes)) for part in (document[:, None], x[:, None]))
    for here, rows in zip(*parts, strict=True):
        empty = torch.zeros_like(here)
        yield Sequences(empty, here, empty.to(torch.uint8), rows)


def uneven(num_rows: int, num_batches: int) -> list[int]:
    """Return sizes of so many batches, no two neighbours alike."""
    weights = torch.arange(num_batches) % 5 + 1
    ends = (weights.cumsum(0) * num_rows) // weights.sum()
    return ends.diff(prepend=torch.zeros(1, dtype=ends.dtype)).tolist()
