"""Tests of the pass that shows each batch of codes to every measure."""

import pytest
import torch
from torch import Tensor

from tests.trilemma.metrics import passes
from trilemma.metrics import coders, streaming
from trilemma.metrics.streaming import Batch
from trilemma.sae import SAE

D_IN, D_SAE = 8, 64


class Kept:
    """A measure that keeps the batches it sees."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def add(self, batch: Batch) -> None:
        self.batches.append(batch)


def rows(num: int = 60) -> Tensor:
    return torch.randn(num, D_IN, generator=torch.Generator().manual_seed(0)) + 0.3


def sae(kind: str) -> SAE:
    generator = torch.Generator().manual_seed(1)
    W_dec = torch.nn.functional.normalize(torch.randn(D_SAE, D_IN, generator=generator))
    return SAE(
        kind,  # type: ignore[arg-type]  # a parameter of the test
        W_enc=W_dec.t().contiguous(),
        W_dec=W_dec,
        b_enc=torch.full((D_SAE,), -0.1),
        b_dec=torch.full((D_IN,), 0.2),
        threshold=torch.full((D_SAE,), 2.0) if kind == "jumprelu" else None,
        k=4 if kind == "topk" else None,
    )


@pytest.mark.parametrize("kind", ["topk", "jumprelu", "relu"])
@torch.no_grad()
def test_a_code_is_that_of_encode_and_decode(kind: str) -> None:
    coder, x = sae(kind), rows()
    acts = coder.encode(x)
    row, latent = acts.nonzero(as_tuple=True)
    assert 0 < len(row) < acts.numel()
    found = coders.code(coder, x)
    torch.testing.assert_close(found.x_hat, coder.decode(acts))
    assert torch.equal(found.entries.row, row)
    assert torch.equal(found.entries.latent, latent)
    assert torch.equal(found.entries.value, acts[row, latent])


def test_the_control_cut_to_k_is_coded_as_it_encodes() -> None:
    coder, x = coders.Strongest(sae("relu"), 3), rows()
    with torch.no_grad():
        acts, found = coder.encode(x), coders.code(coder, x)
    assert torch.equal(found.entries.value, acts[acts != 0])
    assert len(found.entries.row) == 3 * len(x)


def test_a_large_batch_is_coded_in_blocks_of_bounded_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(coders, "_BLOCK_ENTRIES", 17 * D_SAE)
    x, kept = rows(), Kept()
    held_out = passes.prepared(x).rows(passes.batches(x, [40, 20]))
    streaming.stream(sae("topk"), held_out, [kept])
    assert [len(batch.x) for batch in kept.batches] == [17, 17, 6, 17, 3]
    assert torch.equal(torch.cat([batch.x for batch in kept.batches]), x)
    assert torch.equal(
        torch.cat([batch.position for batch in kept.batches]), torch.arange(60)
    )
    assert torch.equal(
        torch.cat([batch.document for batch in kept.batches]), torch.arange(60) // 12
    )


def test_every_row_has_its_number_of_firings() -> None:
    x, kept = rows(), Kept()
    held_out = passes.prepared(x).rows(passes.batches(x, [60]))
    streaming.stream(sae("topk"), held_out, [kept])
    (batch,) = kept.batches
    assert torch.equal(batch.num_firings, torch.full((60,), 4))
