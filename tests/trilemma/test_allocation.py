import json
import resource
import subprocess
import sys

import pytest

# A process of its own: what a test before it freed would be used again, too.
ROUNDS = """
import json, resource, torch
from trilemma import allocation

def pages_faulted(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def pages_held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

pages_faulted(2)
usual = pages_faulted(4)
with allocation.kept():
    pages_faulted(32)  # freed blocks have to join before one of equal size fits again
    kept, held = pages_faulted(4), pages_held()
returned = held - pages_held()
with allocation.kept():
    # Each block in use keeps the one before it from being joined to the next.
    blocks = [torch.ones(1 << 20) for _ in range(32)]
    del blocks[::2]
    held = pages_held()
    allocation.give_back()
    between = held - pages_held()
print(json.dumps(
    {"usual": usual, "kept": kept, "returned": returned, "between": between}
))
"""
BLOCK_PAGES = (4 << 24) // resource.getpagesize()

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="malloc is not glibc's")


@pytest.fixture(scope="module")
def pages():
    ended = subprocess.run(
        [sys.executable, "-c", ROUNDS], check=True, capture_output=True, text=True
    )
    return json.loads(ended.stdout)


def test_large_blocks_are_usually_asked_of_the_kernel_each_time(pages):
    assert pages["usual"] >= 4 * BLOCK_PAGES


def test_large_blocks_are_used_again_inside_the_block(pages):
    assert pages["kept"] < BLOCK_PAGES / 10


def test_kept_memory_is_returned_at_the_end(pages):
    assert pages["returned"] >= BLOCK_PAGES


def test_what_lies_free_between_blocks_in_use_is_given_back(pages):
    assert pages["between"] >= BLOCK_PAGES / 2
