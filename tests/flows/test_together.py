"""Several runs at once: the work is done once, and all end well."""

import json

import pytest

pytestmark = pytest.mark.slow


def test_three_runs_of_one_profile_do_the_work_once(
    tmp_path, profile, start_flows, digests, run_flows
):
    home = tmp_path / "home"
    processes = [start_flows(home, "run", profile) for _ in range(3)]
    ended = [
        (*process.communicate(timeout=300), process.returncode) for process in processes
    ]
    assert [status for _, _, status in ended] == [0, 0, 0], ended
    made = "".join(out + err for out, err, _ in ended)
    for path in home.glob("*/*/MANIFEST.json"):
        manifest = json.loads(path.read_text())
        digest = manifest["digest"][:12]
        assert made.count(f"digest {digest}") == 1, manifest["stage"]
    assert run_flows(home, "verify", profile).status == 0
