"""A toy and text to evaluate SAEs on."""

import pytest
import torch
from torch import Tensor

from tests.trilemma.evaluation.samples import CTX, rows_of, tiny_lm
from trilemma import toys
from trilemma.config.stages import Evaluation
from trilemma.config.toys import Toy
from trilemma.sequences import Sequences


@pytest.fixture
def config() -> Evaluation:
    return Evaluation(
        num_resamples=200,
        rate_tokens=3000,
        num_clusters=8,
        ce_seqs=40,
        batch_seqs=16,
        dead_density=1e-2,
        probe_rows=None,
    )


@pytest.fixture
def source() -> Toy:
    return Toy(num_features=16, d_in=16, num_eval_tokens=128 * CTX, ctx=CTX, noise=0.02)


@pytest.fixture
def rows(source: Toy) -> Sequences:
    return rows_of(source)


@pytest.fixture
def features(source: Toy) -> Tensor:
    return toys.features(source)


@pytest.fixture
def text(rows: Sequences) -> Sequences:
    """Return rows of text in which most tokens repeat the one before."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 17, (128, CTX), generator=generator)
    for pos in range(1, CTX):
        again = torch.rand(128, generator=generator) < 0.8
        tokens[:, pos] = torch.where(again, tokens[:, pos - 1], tokens[:, pos])
    return rows._replace(tokens=tokens, x=tiny_lm().table[tokens])
