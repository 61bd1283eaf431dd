"""Tests of bounded uniform samples."""

import torch

from trilemma.metrics.reservoir import Kept, Reservoir


def sample(
    sizes: list[int], *, num_groups: int = 3, size: int = 50, seed: int = 0
) -> Kept:
    """Return the sample of entries whose group is their position's remainder."""
    reservoir = Reservoir(num_groups, size, seed=seed, device=torch.device("cpu"))
    start = 0
    for length in sizes:
        position = torch.arange(start, start + length)
        facts = position.double().sqrt()
        reservoir.add(position % num_groups, position, lambda at, of=facts: (of[at],))
        start += length
    return reservoir.kept()


def test_each_group_keeps_as_many_as_it_may() -> None:
    found = sample([20_000])
    assert torch.bincount(found.group).tolist() == [50, 50, 50]
    assert found.position.unique().numel() == 150


def test_a_small_group_is_kept_whole() -> None:
    assert sorted(sample([50], num_groups=1).position.tolist()) == list(range(50))


def test_batches_leave_no_trace_in_a_sample() -> None:
    whole, parts = sample([60_000]), sample([1, 7, 64, 29_928, 30_000])
    assert torch.equal(whole.position, parts.position)
    assert torch.equal(whole.facts[0], parts.facts[0])


def test_facts_stay_with_their_entries() -> None:
    found = sample([40_000, 40_000])
    assert torch.equal(found.facts[0], found.position.double().sqrt())
    assert torch.equal(found.group, found.position % 3)


def test_samples_are_uniform_over_positions() -> None:
    found = sample([100_000], num_groups=1, size=10_000).position.double()
    # The mean of n uniform draws has a standard error of range / sqrt(12 n).
    assert abs(found.mean() / 100_000 - 0.5) < 4 * (12 * 10_000) ** -0.5
    tenths = torch.histc(found, bins=10, min=0, max=100_000)
    assert ((tenths - 1000).abs() < 4 * 1000**0.5).all()


def test_another_seed_draws_another_sample() -> None:
    ours, theirs = sample([20_000]), sample([20_000], seed=1)
    common = set(ours.position.tolist()) & set(theirs.position.tolist())
    assert len(common) < 10


def test_groups_with_the_same_positions_keep_the_same() -> None:
    reservoir = Reservoir(2, 100, seed=0, device=torch.device("cpu"))
    position = torch.arange(10_000).repeat(2)
    group = torch.arange(2).repeat_interleave(10_000)
    reservoir.add(group, position, lambda at: ())
    first, second = reservoir.kept().position.split(100)
    assert torch.equal(first, second)
