"""A code that is known already, shown to measures that read a pass over rows."""

from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trilemma.metrics.baseline import Rows
from trilemma.metrics.streaming import Measure, stream
from trilemma.proxies.worlds import Code, World
from trilemma.sequences import Sequences

M = TypeVar("M", bound=Measure)


def shown(measure: M, code: Code, world: World) -> M:
    """Return the measure, once it has seen a world's rows and their code."""
    num_rows = len(world.x)
    beside = torch.zeros(1, num_rows, dtype=torch.int64)
    rows = Rows(
        x=world.x,
        document=np.arange(num_rows),
        position=np.arange(num_rows),
        sequences=Sequences(beside, beside, beside.byte(), world.x[None]),
        kept=torch.arange(num_rows),
    )
    stream(_Played(code), [rows], [measure])
    return measure


class _Played:
    """A coder that gives out a code row by row, whatever it is asked to encode."""

    def __init__(self, code: Code) -> None:
        self._code = code
        self._next = 0

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_in"]:  # noqa: N802 (the field's name)
        return self._code.W_dec

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        start, self._next = self._next, self._next + len(x)
        return self._code.acts[start : self._next]

    def decode(self, acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_in"]:
        return acts @ self._code.W_dec
