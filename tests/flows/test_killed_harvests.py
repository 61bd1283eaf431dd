"""Fifty SIGKILLs of a harvest: run again, it ends in the bytes of a quiet one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


# A worker that is spawned imports for seconds what a fork has, so those are few.
@pytest.mark.parametrize(
    ("num_workers", "start", "kills"),
    [(1, "fork", 25), (2, "fork", 25), (2, "spawn", 2)],
)
def test_every_killed_harvest_ends_in_the_digest_of_an_undisturbed_one(
    tmp_path, num_workers, start, kills
):
    ended = subprocess.run(
        # As a module it imports this checkout, whichever one is installed.
        [
            *(sys.executable, "-m", "tests.flows.killed_harvests"),
            *(str(tmp_path), str(kills), str(num_workers), start),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    results = json.loads(ended.stdout.splitlines()[-1])
    assert [result for result in results if not result["equal"]] == []
    assert len(results) == kills
    # Some were killed halfway, or the test would show nothing. Two that are spawned may
    # both be killed while they import; what they show is that workers end well.
    assert start == "spawn" or any(result["committed"] for result in results)
