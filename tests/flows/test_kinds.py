"""SAEs of every kind through the stage: killed, alone, beside one that fails."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.flows.trained_kinds import CHECKPOINT_STEPS, NAMES, NUM_STEPS, PROFILE

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
KILLS = 5
BAD = {"kind": "topk", "d_sae": 64, "k": 3, "lr": 1e30}
NAME = "topk-k3-lr1e+30"


class Failed(NamedTuple):
    """A command that trained a family of which one member failed."""

    status: int
    err: str
    shown: list[dict]
    """What `show` lists of the training stage."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the digests of every kind, by how the SAEs were trained."""
    folder = str(tmp_path_factory.mktemp("kinds"))
    ended = subprocess.run(
        # As a module it imports this checkout, whichever one is installed.
        [sys.executable, "-m", "tests.flows.trained_kinds", folder, str(KILLS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def failed(tmp_path_factory, run_flows):
    """Return how a family ended in which the learning rate of one SAE is absurd."""
    folder = tmp_path_factory.mktemp("failed")
    good = PROFILE["saes"]
    profile = folder / "kinds.yaml"
    profile.write_text(yaml.safe_dump(PROFILE | {"saes": [BAD, *good]}))
    ended = run_flows(folder / "home", "training", profile)
    shown = run_flows(folder / "home", "show", profile, "--json")
    steps = [x for x in json.loads(shown.out) if x["stage"] == "training"]
    return Failed(ended.status, ended.err, steps)


def test_kills_came_amid_training(trained):
    for killed in trained["killed"]:
        assert CHECKPOINT_STEPS <= max(killed["steps"]) < NUM_STEPS
        assert killed["status"] == 0


@pytest.mark.parametrize("kind", NAMES)
def test_sae_killed_at_five_random_steps_ends_in_the_bytes_of_a_quiet_run(
    trained, kind
):
    key = trained["keys"][kind]
    found = [killed["digests"][key] for killed in trained["killed"]]
    assert found == [trained["together"][key]] * KILLS


@pytest.mark.parametrize("kind", NAMES)
def test_sae_trained_beside_others_equals_the_same_trained_alone(trained, kind):
    key = trained["keys"][kind]
    assert trained["together"][key] == trained["alone"][key]


@pytest.mark.parametrize("kind", NAMES)
def test_sae_beside_one_that_fails_has_the_bytes_that_it_has_without(
    trained, failed, kind
):
    key = trained["keys"][kind]
    (step,) = (step for step in failed.shown if step["key"] == key)
    manifest = json.loads((Path(step["path"]) / "MANIFEST.json").read_text())
    assert manifest["digest"] == trained["together"][key]


def test_sae_that_fails_is_told_in_one_line_and_by_the_exit_status(failed):
    assert failed.status == 1
    (line,) = [x for x in failed.err.splitlines() if "resume with" in x]
    assert line.startswith(
        f"training {NAME}: found a loss or gradient that is not finite at step 2; all "
        "rows of its batch are finite; lower lr (the checkpoint of step 1 is kept); "
        "resume with: python -m flows training "
    )


def test_sae_that_fails_is_shown_as_failed_among_its_siblings(failed):
    states = {step["name"]: step["state"] for step in failed.shown}
    assert {name for name, state in states.items() if state != "done"} == {NAME}
    assert states[NAME] == "failed"
