"""Golden digests: a stage whose bytes change needs a new version in `tasks/plan.py`."""

import json
from pathlib import Path

import pytest

from flows.run import run as run_flow
from storage import home as homes
from storage.home import Home
from tasks import environment
from tasks import plan as planning
from trilemma import config
from trilemma.config.stages import Compute

pytestmark = pytest.mark.usefixtures("prefect")
GOLDEN = Path(__file__).with_name("golden.json")
# These decide how a page is drawn or a run is kept, not what is computed.
IRRELEVANT = {"prefect", "wandb"}


def found(plan) -> dict:
    here = environment.read(Compute(), 0.0, stage="training")
    digests = {}
    for step in plan.steps:
        if step.stage != "sharing":
            digests[step.title] = step.manifest().digest
    return {
        "environment": {
            "processor": here.processor,
            "threads": here.threads,
            "versions": {k: v for k, v in here.versions.items() if k not in IRRELEVANT},
        },
        "versions": planning.VERSIONS,
        "digests": digests,
    }


def test_bytes_change_only_with_the_version_of_their_stage(
    tmp_path, monkeypatch, profile, prefect
):
    monkeypatch.setenv(homes.VARIABLE, str(tmp_path))
    run = config.load(profile)
    assert run_flow(run, return_state=True).is_completed()
    now = found(planning.make(run, Home(tmp_path)))
    golden = json.loads(GOLDEN.read_text())
    if now["environment"] != golden["environment"]:
        pytest.skip(
            "other libraries or another processor: equal bytes are not promised"
        )
    said = f"raise the stage's version, then write {GOLDEN.name}:\n{json.dumps(now)}"
    assert now == golden, said
