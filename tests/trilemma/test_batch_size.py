"""The batch that fits a memory budget, and the count that it rests on."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from trilemma import batch_size
from trilemma.lm import LM

HOOKS = ("blocks.1.hook_mlp_out", "blocks.0.mlp.hook_post")
MIB = 1 << 20


def peak(lm, num_seqs, *, hooks=HOOKS, ctx=32):
    return batch_size.peak_bytes(lm, hooks, num_seqs=num_seqs, ctx=ctx)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_count_is_what_the_allocator_saw(trained, attention, dtype):
    lm = LM.load(
        trained.folder,
        dtype=dtype,
        device="cpu",
        processing="none",
        attention=attention,
    )
    # So many that what attention takes for each thread, inside itself, is little.
    tokens = torch.zeros(64, 32, dtype=torch.int64)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        lm.activations(tokens, HOOKS)
    live = highest = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            highest = max(highest, live)
    assert peak(lm, 64) == pytest.approx(highest, rel=0.2)


def test_eight_sequences_need_what_one_and_two_foretell(tiny_lm):
    one, two = peak(tiny_lm, 1), peak(tiny_lm, 2)
    assert peak(tiny_lm, 8) == pytest.approx(one + 7 * (two - one), rel=0.2)


def test_the_count_is_the_same_each_time(tiny_lm):
    assert peak(tiny_lm, 3) == peak(tiny_lm, 3)


def test_a_deeper_hook_needs_no_less(tiny_lm):
    first = peak(tiny_lm, 4, hooks=["hook_embed"])
    assert first < peak(tiny_lm, 4, hooks=["blocks.2.hook_resid_post"])


@pytest.mark.parametrize("num_seqs", [1, 2, 8, 32])
def test_the_batch_is_the_largest_power_of_two_that_fits(tiny_lm, num_seqs):
    one, two = peak(tiny_lm, 1), peak(tiny_lm, 2)
    needed = one + (num_seqs - 1) * (two - one)

    def found(memory_bytes):
        return batch_size.find(tiny_lm, HOOKS, ctx=32, memory_bytes=memory_bytes)

    assert found(needed) == found(needed + (two - one) // 2) == num_seqs
    if num_seqs > 1:
        assert found(needed - 1) == num_seqs // 2


def test_a_batch_on_a_cpu_never_exceeds_4096_tokens(tiny_lm):
    found = batch_size.find(tiny_lm, HOOKS, ctx=32, memory_bytes=1 << 60)
    assert found == 4096 // 32


def test_a_sequence_that_does_not_fit_is_an_error(tiny_lm):
    assert peak(tiny_lm, 1) < MIB
    with pytest.raises(ValueError) as error:
        batch_size.find(tiny_lm, HOOKS, ctx=32, memory_bytes=1000)
    assert str(error.value) == (
        "harvest.batch_memory_mib: one sequence of 32 tokens needs 1 MiB, and 0 are "
        "allowed; allow more, or set a smaller corpus.ctx"
    )
