"""The order of training: every row once an epoch, and any position can be resumed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.order import TrainingOrder


class FakeStore:
    """Chunks whose rows are numbered, so that order can be read off."""

    def __init__(self, sizes):
        self._sizes = sizes
        self._starts = [sum(sizes[:i]) for i in range(len(sizes))]

    def unmasked_rows(self):
        import numpy as np

        return np.array(self._sizes, np.int64)

    def chunk(self, hook, index):
        start = self._starts[index]
        return torch.arange(start, start + self._sizes[index]).float()[:, None]


def order(sizes, batch=7, open_chunks=3, seed=0):
    return TrainingOrder(
        FakeStore(sizes), "h", seed=seed, batch_tokens=batch, open_chunks=open_chunks
    )


def rows(batches):
    return torch.cat(list(batches)).view(-1).long().tolist()


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    batch=st.integers(1, 30),
    open_chunks=st.integers(1, 5),
    seed=st.integers(0, 3),
)
def test_every_row_comes_exactly_once_in_each_epoch(sizes, batch, open_chunks, seed):
    it = order(sizes, batch, open_chunks, seed)
    for epoch in range(2):
        steps = it.steps_per_epoch
        seen = rows(it.batches(epoch * steps, (epoch + 1) * steps, prefetch=False))
        assert sorted(seen) == list(range(sum(sizes)))


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 20), min_size=1, max_size=12).filter(sum),
    start=st.integers(0, 40),
    prefetch=st.booleans(),
)
def test_reading_from_any_step_gives_the_same_batches(sizes, start, prefetch):
    it = order(sizes)
    stop = 3 * it.steps_per_epoch
    whole = list(it.batches(0, stop, prefetch=False))
    resumed = list(it.batches(start, stop, prefetch=prefetch))
    assert len(resumed) == max(stop - start, 0)
    for mine, theirs in zip(resumed, whole[start:], strict=False):
        assert torch.equal(mine, theirs)


def test_all_batches_but_an_epochs_last_are_full():
    it = order([10, 10, 10])
    sizes = [len(x) for x in it.batches(0, it.steps_per_epoch, prefetch=True)]
    assert sizes == [7, 7, 7, 7, 2]


@pytest.mark.parametrize("change", [{"seed": 1}, {"open_chunks": 2}])
def test_seed_and_open_chunks_change_the_order(change):
    sizes = [10] * 8
    steps = order(sizes).steps_per_epoch
    first = rows(order(sizes).batches(0, steps, prefetch=False))
    assert rows(order(sizes, **change).batches(0, steps, prefetch=False)) != first


def test_epochs_have_different_orders():
    it = order([10] * 8)
    steps = it.steps_per_epoch
    first = rows(it.batches(0, steps, prefetch=False))
    assert rows(it.batches(steps, 2 * steps, prefetch=False)) != first


def test_position_is_seed_epoch_and_rows_consumed():
    it = order([10, 10, 10], seed=5)
    assert it.position(0) == (5, 0, 0)
    assert it.position(7) == (5, 1, 14)
