"""Exact selection of the largest pre-activations, against plain sorting."""

import pytest
import torch

from trilemma import selection


def rounded(batch: int, d_sae: int) -> torch.Tensor:
    """Return random values with many ties."""
    generator = torch.Generator().manual_seed(batch * d_sae)
    return torch.randn(batch, d_sae, generator=generator).round(decimals=1)


SHAPES = [(5, 40, 3), (64, 1024, 32), (300, 1000, 7), (128, 4096, 16), (3, 7, 7)]


@pytest.mark.parametrize(("batch", "d_sae", "k"), SHAPES)
def test_rows_give_the_values_that_sorting_gives(
    batch: int, d_sae: int, k: int
) -> None:
    pre_acts = rounded(batch, d_sae)
    columns = selection.largest_in_rows(pre_acts, k)
    found = pre_acts.gather(1, columns).sort(dim=1, descending=True).values
    assert torch.equal(found, pre_acts.topk(k).values)


@pytest.mark.parametrize(("batch", "d_sae", "k"), SHAPES)
def test_rows_name_no_latent_twice(batch: int, d_sae: int, k: int) -> None:
    columns = selection.largest_in_rows(rounded(batch, d_sae), k)
    assert all(len(set(row)) == k for row in columns.tolist())


@pytest.mark.parametrize(("batch", "d_sae", "k"), SHAPES)
def test_a_batch_gives_the_values_that_sorting_gives(
    batch: int, d_sae: int, k: int
) -> None:
    pre_acts = rounded(batch, d_sae)
    flat = selection.largest_in_batch(pre_acts, k * batch)
    found = pre_acts.flatten()[flat].sort(descending=True).values
    assert torch.equal(found, pre_acts.flatten().topk(k * batch).values)


@pytest.mark.parametrize(("batch", "d_sae", "k"), SHAPES)
def test_a_batch_gives_ascending_indices(batch: int, d_sae: int, k: int) -> None:
    flat = selection.largest_in_batch(rounded(batch, d_sae), k * batch)
    assert bool((flat.diff() > 0).all())


def test_a_batch_whose_sample_misleads_is_still_exact() -> None:
    # Every 61st entry, which the guess is made from, is large; the others are small.
    pre_acts = torch.rand(64, 2048)
    pre_acts.view(-1)[::61] += 10
    flat = selection.largest_in_batch(pre_acts, 6400)
    found = pre_acts.flatten()[flat].sort(descending=True).values
    assert torch.equal(found, pre_acts.flatten().topk(6400).values)


@pytest.mark.parametrize("num", [0, 5, 8, 64, 67])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_true_places_are_those_of_nonzero(num: int, share: float) -> None:
    mask = torch.rand(num, generator=torch.Generator().manual_seed(num)) < share
    assert torch.equal(selection.true_places(mask), mask.nonzero().squeeze(1))


def test_the_largest_positive_entries_are_found_in_bfloat16_too() -> None:
    generator = torch.Generator().manual_seed(0)
    pre_acts = torch.randn(32, 128, generator=generator).bfloat16()
    columns = selection.largest_in_rows(pre_acts, 8)
    found = pre_acts.gather(1, columns).sort(dim=1).values
    assert torch.equal(found, pre_acts.topk(8, dim=1).values.sort(dim=1).values)
    places = selection.largest_in_batch(pre_acts, 256)
    largest = pre_acts.flatten()[places].sort().values
    assert torch.equal(largest, pre_acts.flatten().topk(256).values.sort().values)


def test_entries_that_are_not_positive_come_after_all_that_are() -> None:
    pre_acts = torch.tensor([[-3.0, 0.5, -0.0, -1.0, 0.25]]).bfloat16()
    assert set(selection.largest_in_rows(pre_acts, 2)[0].tolist()) == {1, 4}
