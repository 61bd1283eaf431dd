"""Whole sequences for a training step: a function of the seed and the step alone."""

import pytest
import torch

from storage.places import LocalPlace
from storage.sequence_order import SequenceOrder
from storage.store import Store
from tests.storage.stores import HOOK, NUM_SEQS, layout, make


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.open(make(LocalPlace(tmp_path), layout("bfloat16")))


def documents(store, steps, *, seed=0):
    order = SequenceOrder(store, HOOK, seed=seed, batch_seqs=4)
    return [order.batch(step).document[:, 0].tolist() for step in steps]


def test_every_sequence_comes_equally_often(store):
    steps = documents(store, range(NUM_SEQS))
    found = [number for step in steps for number in step]
    assert [found.count(number) for number in range(NUM_SEQS)] == [4] * NUM_SEQS


def test_a_step_reads_the_same_whatever_was_read_before(store):
    whole = documents(store, range(9))
    assert documents(store, [7]) == [whole[7]]
    assert documents(store, reversed(range(9))) == whole[::-1]


def test_seeds_begin_elsewhere(store):
    assert len({documents(store, [0], seed=seed)[0][0] for seed in range(20)}) > 1


def test_sequences_are_those_of_the_store(store):
    parts = zip(*store.sequences(HOOK, 2, limit=None), strict=True)
    whole = [torch.cat(part) for part in parts]
    batch = SequenceOrder(store, HOOK, seed=1, batch_seqs=4).batch(5)
    numbers = batch.document[:, 0]
    assert all(torch.equal(a, b[numbers]) for a, b in zip(batch, whole, strict=True))
