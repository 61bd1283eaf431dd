"""Locks: one holder, waiters told, nothing left behind by a death."""

import os
import subprocess
import sys

from storage import locks

HOLD = """
import sys, time
from pathlib import Path
from storage import locks
with locks.holding([Path(sys.argv[1])], lambda path: None):
    print("held", flush=True)
    sys.stdin.readline()
"""


def start_holder(path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_lock_is_free_before_and_after_it_is_held(tmp_path):
    path = tmp_path / "lock"
    assert not locks.is_held(path)
    with locks.holding([path], lambda path: None):
        assert locks.is_held(path)
    assert not locks.is_held(path)


def test_death_of_the_holder_frees_its_lock(tmp_path):
    path = tmp_path / "lock"
    with start_holder(path) as holder:
        assert locks.is_held(path)
        holder.kill()
        holder.wait()
        assert not locks.is_held(path)


def test_waiter_is_told_and_gets_the_lock_when_it_is_freed(tmp_path):
    path = tmp_path / "lock"
    told = []
    with start_holder(path) as holder:

        def wait(waited):
            told.append(waited)
            holder.stdin.write("\n")
            holder.stdin.flush()

        with locks.holding([path], wait):
            assert told == [path]
