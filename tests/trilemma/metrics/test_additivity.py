"""Ablations add up where logits are linear in the hook; elsewhere the gap is known."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trilemma.lookup_lm import LookupLM
from trilemma.config.stages import Evaluation
from trilemma.metrics import additivity
from trilemma.sequences import Sequences

VOCAB, D_IN, CTX = 30, 8, 12
DOCUMENTS = np.arange(100, 105)


@dataclass
class Halves:
    """A code of positive and negative parts, without error."""

    scale: float = 1.0

    @property
    def W_dec(self) -> Tensor:
        return torch.cat([torch.eye(D_IN), -torch.eye(D_IN)]) / self.scale

    def encode(self, x: Tensor) -> Tensor:
        return torch.cat([x, -x], dim=-1).clamp_min(0) * self.scale

    def decode(self, acts: Tensor) -> Tensor:
        return acts @ self.W_dec


def make(shape: Callable[[Tensor], Tensor]) -> LookupLM:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(VOCAB, D_IN, generator=generator, dtype=torch.float64)
    unembedding = torch.randn(D_IN, VOCAB, generator=generator, dtype=torch.float64)
    return LookupLM(table, unembedding, shape)


def rows(lm: LookupLM) -> Sequences:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, VOCAB, (10, CTX), generator=generator)
    mask = torch.zeros(10, CTX, dtype=torch.uint8)
    mask[:, 0] = 2
    document = torch.arange(10)[:, None].expand(10, CTX) // 2 + 100
    return Sequences(tokens, document, mask, lm.table[tokens])


def measure(
    lm: LookupLM,
    batch: Sequences,
    *,
    coder: Halves | None = None,
    num_latents: int = 3,
    batch_seqs: int = 4,
) -> additivity.Gaps:
    return additivity.gaps(
        coder or Halves(),
        lm,
        [batch],
        hook="only",
        documents=DOCUMENTS,
        num_seqs=6,
        num_latents=num_latents,
        batch_seqs=batch_seqs,
        seed=0,
    )


def test_a_linear_readout_is_additive() -> None:
    lm = make(lambda logits: logits)
    found = measure(lm, rows(lm))
    assert found.joint[:3].min() > 1
    assert found.gap == pytest.approx(np.zeros(5), abs=1e-24)


def test_four_positions_of_the_first_sequences_are_tried() -> None:
    lm = make(lambda logits: logits)
    found = measure(lm, rows(lm))
    assert found.num_positions.tolist() == [8, 8, 8, 0, 0]
    assert found.num_runs == 24 * (1 + 3 + 1)


def test_a_shift_of_all_logits_is_no_change() -> None:
    lm = make(lambda logits: logits.square().sum(-1, keepdim=True).expand_as(logits))
    found = measure(lm, rows(lm))
    assert found.joint == pytest.approx(np.zeros(5), abs=1e-20)


def test_the_gap_of_squared_logits_is_twice_their_product() -> None:
    """With u and v the logits of either part, (u + v)^2 - u^2 - v^2 = 2 u v."""
    lm = make(torch.square)
    batch = rows(lm)
    x = torch.zeros_like(batch.x)
    x[..., 0], x[..., 1] = 2.0, 1.0
    found = measure(lm, batch._replace(x=x), num_latents=2)
    product = 4 * lm.unembedding[0] * lm.unembedding[1]
    gap = (product - product.mean()).square().sum()
    assert found.gap / found.num_positions.clip(1) == pytest.approx(
        [float(gap)] * 3 + [0] * 2
    )


def test_rows_where_one_latent_fires_are_left_out() -> None:
    lm = make(lambda logits: logits)
    batch = rows(lm)
    x = torch.zeros_like(batch.x)
    x[..., 0] = 1.0
    assert measure(lm, batch._replace(x=x)).num_positions.sum() == 0


def test_masked_positions_are_left_out() -> None:
    lm = make(lambda logits: logits)
    batch = rows(lm)
    batch.mask[:] = 1
    batch.mask[:, 5] = 0
    assert measure(lm, batch).num_positions.tolist() == [2, 2, 2, 0, 0]


def test_neither_scale_nor_batches_change_anything() -> None:
    lm = make(torch.square)
    plain = measure(lm, rows(lm))
    other = measure(lm, rows(lm), coder=Halves(scale=4.0), batch_seqs=1)
    assert plain.gap == pytest.approx(other.gap)
    assert plain.joint == pytest.approx(other.joint)


def test_the_method_names_the_bootstrap_that_is_used() -> None:
    lm = make(torch.square)
    found = additivity.scalars(measure(lm, rows(lm)), Evaluation(num_resamples=50))
    assert found["additivity_gap"].method.endswith("; studentised document bootstrap")
