"""Matching pursuit: what it finds, and when it ends."""

import pytest
import torch
from torch import Tensor

from trilemma import matching_pursuit
from trilemma.config.saes import BatchTopK, Matryoshka, TopK
from trilemma.config.training import Training
from trilemma.matching_pursuit import Pursuit
from trilemma.start import Start
from trilemma.training import Member

ORTHOGONAL = torch.eye(4)


def plain(x: Tensor, W_dec: Tensor, pursuit: Pursuit) -> Tensor:
    """Return the codes row by row, as the paper writes them down."""
    acts = torch.zeros(len(x), len(W_dec))
    for row, whole in enumerate(x):
        left = whole.clone()
        for _ in range(pursuit.max_steps):
            products = W_dec @ left
            best = int(products.argmax())
            is_repeat = bool(acts[row, best] > 0) or bool(products[best] <= 0)
            acts[row, best] += products[best].relu()
            left -= products[best].relu() * W_dec[best]
            if pursuit.stops_at_repeat and is_repeat:
                break
    return acts


def test_orthogonal_latents_are_found_in_the_order_of_their_size() -> None:
    x = torch.tensor([[1.0, 3.0, 0.0, 2.0]])
    acts = matching_pursuit.encode(x, ORTHOGONAL, Pursuit(2, 0.0, False))
    assert acts.tolist() == [[0.0, 3.0, 0.0, 2.0]]


@pytest.mark.parametrize("stops_at_repeat", [False, True])
def test_the_codes_are_those_of_the_plain_algorithm(stops_at_repeat: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 6, generator=generator)
    W_dec = torch.nn.functional.normalize(torch.randn(20, 6, generator=generator))
    pursuit = Pursuit(12, 0.0, stops_at_repeat)
    found = matching_pursuit.encode(x, W_dec, pursuit)
    torch.testing.assert_close(found, plain(x, W_dec, pursuit))


def test_a_row_ends_once_its_residual_is_small() -> None:
    x = torch.tensor([[3.0, 0.5, 0.0, 0.0], [3.0, 2.0, 1.5, 0.0]])
    acts = matching_pursuit.encode(x, ORTHOGONAL, Pursuit(4, 1.0, False))
    assert (acts > 0).sum(1).tolist() == [1, 3]


@pytest.mark.parametrize(
    "config",
    [
        TopK(kind="topk", d_sae=12, k=3, inference="matching_pursuit"),
        BatchTopK(kind="batchtopk", d_sae=12, k=3, inference="matching_pursuit"),
        Matryoshka(
            kind="matryoshka",
            d_sae=12,
            k=3,
            widths=(4, 12),
            inference="matching_pursuit",
        ),
    ],
    ids=lambda config: config.kind,
)
def test_a_trained_sae_pursues_its_codes(config: TopK) -> None:
    x = torch.randn(256, 6, generator=torch.Generator().manual_seed(0)) * 7 + 2
    start = Start(6, x.mean(0), float(x.square().sum(1).mean()))
    member = Member(
        config, Training(), start=start, num_steps=40, key="one", device="cpu"
    )
    for _ in range(40):
        member.step(x)
    sae = member.export()
    acts = sae.encode(x)
    expected = plain(x - sae.b_dec.detach(), sae.W_dec.detach(), Pursuit(3, 0.0, False))
    torch.testing.assert_close(acts, expected, rtol=1e-4, atol=1e-4)
    assert int((acts != 0).sum(1).max()) <= config.k
