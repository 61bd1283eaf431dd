"""Sparse codes and their gradients, against dense autograd in float64."""

import pytest
import torch
from torch import Tensor

from trilemma import codes

BATCH, D_IN, D_SAE, K = 12, 5, 20, 3


def leaf(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).requires_grad_()


def weights() -> tuple[Tensor, ...]:
    """Return W_enc, b_enc, W_dec, b_dec."""
    return (
        leaf(D_IN, D_SAE, seed=1),
        leaf(D_SAE, seed=2),
        leaf(D_SAE, D_IN, seed=3),
        leaf(D_IN, seed=4),
    )


def support_of(kind: str, pre_acts: Tensor) -> codes.Support:
    if kind == "topk":
        return codes.topk(pre_acts, K)
    if kind == "batchtopk":
        return codes.batchtopk(pre_acts, K)
    return codes.where(pre_acts > 0.3)


def in_float64(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().double().requires_grad_() for tensor in tensors)


def assert_near(found: Tensor | None, wanted: Tensor | None) -> None:
    assert found is not None
    assert wanted is not None
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


KINDS = ["topk", "batchtopk", "where"]


def test_batchtopk_keeps_k_times_batch_pairs() -> None:
    pre_acts = leaf(BATCH, D_SAE, seed=0).detach()
    assert len(codes.batchtopk(pre_acts, K).columns) == K * BATCH


def test_batchtopk_keeps_the_largest_of_the_batch() -> None:
    pre_acts = leaf(BATCH, D_SAE, seed=0).detach()
    pairs = codes.batchtopk(pre_acts, K)
    kept = pre_acts[pairs.rows, pairs.columns]
    assert float(kept.min()) == float(pre_acts.flatten().topk(K * BATCH).values.min())


def test_where_keeps_every_pair_of_the_mask() -> None:
    pre_acts = leaf(BATCH, D_SAE, seed=0).detach()
    pairs = codes.where(pre_acts > 0.3)
    assert len(pairs.columns) == int((pre_acts > 0.3).sum())


def test_a_row_without_pairs_decodes_to_zero() -> None:
    pre_acts = torch.tensor([[1.0, -1.0], [-1.0, -1.0]])
    pairs = codes.where(pre_acts > 0)
    x_hat = codes.decode(torch.tensor([2.0]), torch.eye(2), support=pairs)
    assert x_hat.tolist() == [[2.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_equal_the_dense_ones(kind: str) -> None:
    x, target = leaf(BATCH, D_IN, seed=5).detach(), leaf(BATCH, D_IN, seed=6).detach()

    sparse = weights()
    W_enc, b_enc, W_dec, b_dec = sparse
    pre_acts = ((x - b_dec) @ W_enc + b_enc).detach()
    pairs = support_of(kind, pre_acts)
    selected = codes.selected_pre_acts(
        x, W_enc, b_enc, b_dec, pre_acts=pre_acts, support=pairs
    )
    x_hat = codes.decode(torch.relu(selected), W_dec, support=pairs) + b_dec
    torch.autograd.backward((x_hat - target).square().sum())

    dense = in_float64(sparse)
    W_enc, b_enc, W_dec, b_dec = dense
    mask = torch.zeros(BATCH, D_SAE)
    mask[pairs.rows, pairs.columns] = 1
    acts = torch.relu((x - b_dec) @ W_enc + b_enc) * mask
    expected = acts @ W_dec + b_dec
    torch.autograd.backward((expected - target).square().sum())

    assert_near(x_hat, expected)
    for found, wanted in zip(sparse, dense, strict=True):
        assert_near(found.grad, wanted.grad)


def test_all_pre_acts_have_the_gradients_of_the_encoder() -> None:
    x, target = leaf(BATCH, D_IN, seed=5).detach(), leaf(BATCH, D_SAE, seed=6).detach()
    W_enc, b_enc, _, b_dec = known = weights()
    pre_acts = ((x - b_dec) @ W_enc + b_enc).detach()
    found = codes.all_pre_acts(x, W_enc, b_enc, b_dec, pre_acts=pre_acts)
    torch.autograd.backward((found - target).square().sum())
    W_enc, b_enc, _, b_dec = plain = in_float64(known)
    torch.autograd.backward(((x - b_dec) @ W_enc + b_enc - target).square().sum())
    for index in (0, 1, 3):
        assert_near(known[index].grad, plain[index].grad)


@pytest.mark.parametrize("kind", KINDS)
def test_nested_widths_have_the_gradients_of_dense_ones(kind: str) -> None:
    widths = (4, 11, D_SAE)
    pre_acts = leaf(BATCH, D_SAE, seed=0).detach()
    target = leaf(len(widths), BATCH, D_IN, seed=6).detach()
    pairs = support_of(kind, pre_acts)
    W_dec = leaf(D_SAE, D_IN, seed=3)
    values = pre_acts[pairs.rows, pairs.columns].requires_grad_()
    found = codes.decode_nested(values, W_dec, support=pairs, widths=widths)
    torch.autograd.backward((found - target).square().sum())

    acts, W_dec_64 = in_float64((pre_acts, W_dec))
    mask = torch.zeros(BATCH, D_SAE)
    mask[pairs.rows, pairs.columns] = 1
    kept = acts * mask
    expected = torch.stack([kept[:, :m] @ W_dec_64[:m] for m in widths])
    torch.autograd.backward((expected - target).square().sum())
    assert acts.grad is not None
    assert_near(found, expected)
    assert_near(W_dec.grad, W_dec_64.grad)
    assert_near(values.grad, acts.grad[pairs.rows, pairs.columns])
