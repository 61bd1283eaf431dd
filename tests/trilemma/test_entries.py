"""Tests of codes that keep their nonzero entries alone."""

import torch
from torch import Tensor

from trilemma import activation_functions, entries


def pre_acts() -> Tensor:
    found = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    found[[0, 7, 49]] = -1  # rows on which nothing fires
    return found


def assert_same(found: entries.Entries, acts: Tensor) -> None:
    row, latent = acts.nonzero(as_tuple=True)
    assert torch.equal(found.row, row)
    assert torch.equal(found.latent, latent)
    assert torch.equal(found.value, acts[row, latent])


def test_a_dense_code_has_the_entries_that_are_not_zero() -> None:
    acts = activation_functions.relu(pre_acts()) - activation_functions.relu(
        -pre_acts() - 1
    )
    assert_same(entries.of(acts), acts)


def test_the_largest_latents_are_found_without_a_dense_code() -> None:
    acts = activation_functions.topk(pre_acts(), 40)
    assert (acts > 0).sum(1).median() < 40
    assert_same(entries.of_topk(pre_acts(), 40), acts)


def test_entries_decode_as_their_dense_code_does() -> None:
    W_dec = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    acts = activation_functions.topk(pre_acts(), 5)
    found = entries.decode(entries.of(acts), W_dec, num_rows=50)
    torch.testing.assert_close(found, acts @ W_dec)
