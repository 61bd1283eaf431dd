"""Decoder incoherence: what it is of known directions, and what it does."""

import pytest
import torch
from torch import Tensor

from tests.trilemma.kinds.samples import (
    BATCH,
    CONFIGS,
    batch_of,
    disturbed,
    kind_of,
    rows,
)
from tests.trilemma.terms.training import trained
from trilemma.config.terms import Incoherence, Terms
from trilemma.terms import incoherence


def value(W_dec: Tensor) -> float:
    # It reads the decoder alone, whatever the batch.
    kind = kind_of("relu")
    batch = batch_of(kind, rows(BATCH))
    forward = kind.forward(disturbed(CONFIGS["relu"], kind), batch)
    return float(incoherence.value({"W_dec": W_dec}, batch, forward))


def coherence(W_dec: Tensor) -> float:
    """Return the largest |cosine| of two rows."""
    cosines = W_dec @ W_dec.t()
    return float(cosines.fill_diagonal_(0).abs().max())


@pytest.mark.parametrize(("d_sae", "d_in"), [(2000, 16), (500, 64), (64, 512)])
def test_random_directions_have_about_one(d_sae: int, d_in: int) -> None:
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.randn(d_sae, d_in, generator=generator)
    assert value(W_dec) == pytest.approx(1, abs=0.1)


def test_orthogonal_rows_have_none() -> None:
    assert value(torch.eye(8)) == 0


def test_equal_rows_have_the_width_of_the_activations() -> None:
    assert value(torch.ones(4, 8)) == pytest.approx(8)


def test_the_norms_of_rows_do_not_matter() -> None:
    W_dec = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    norms = torch.linspace(0.1, 10, 12)[:, None]
    assert value(norms * W_dec) == pytest.approx(value(W_dec), rel=1e-5)


@pytest.mark.parametrize("kind", ["topk", "relu-decoder-norm"])
def test_it_lowers_the_coherence_of_the_decoder(kind: str) -> None:
    term = Terms(incoherence=Incoherence(coefficient=1.0))
    with_it, without = (
        trained(kind, terms, d_sae=8).export().W_dec.detach() for terms in (term, None)
    )
    unit = torch.nn.functional.normalize
    assert coherence(unit(with_it)) < 0.5 * coherence(unit(without))
