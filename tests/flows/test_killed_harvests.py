"""Fifty SIGKILLs of a harvest: run again, it ends in the bytes of a quiet one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("killed_harvests.py")
KILLS = 25


@pytest.mark.parametrize("num_workers", [1, 2])
def test_every_killed_harvest_ends_in_the_digest_of_an_undisturbed_one(
    tmp_path, num_workers
):
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), str(KILLS), str(num_workers)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    results = json.loads(ended.stdout.splitlines()[-1])
    assert [result for result in results if not result["equal"]] == []
    assert len(results) == KILLS
    # Some were killed halfway, or the test would show nothing.
    assert any(result["committed"] for result in results)
