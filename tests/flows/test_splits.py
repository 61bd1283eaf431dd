"""A family of two widths at one hook: what its latents became is kept and reported."""

import json

import pytest

from flows.run import run as run_flow
from storage import home as homes
from storage.home import Home
from tasks import evaluation
from tasks import plan as planning
from trilemma import config

pytestmark = pytest.mark.usefixtures("prefect")
WIDTHS = "saes=[{kind: topk, d_sae: 6, k: 2}, {kind: topk, d_sae: 12, k: 2}]"


def test_one_width_has_nothing_to_compare(profile, tmp_path):
    plan = planning.make(config.load(profile), Home(tmp_path))
    names = [step.name for step in plan.of("evaluation")]
    assert not any(name.startswith(evaluation.SPLITS_PREFIX) for name in names)


def test_latents_of_two_widths_are_matched_and_reported(profile, tmp_path, monkeypatch):
    monkeypatch.setenv(homes.VARIABLE, str(tmp_path))
    run = config.load(profile, (WIDTHS,))
    assert run_flow(run, return_state=True).is_completed()
    plan = planning.make(run, Home(tmp_path))
    (step,) = (s for s in plan.of("evaluation") if s.name == "splits-toy")
    narrow, wide = (m.name for m in run.family() if not m.is_control)
    trained = {label for label in step.parents if label.startswith("training/")}
    assert trained == {f"training/{narrow}", f"training/{wide}"}
    (couple,) = evaluation.read_splits(step)
    assert (couple["narrow"], couple["wide"]) == (narrow, wide)
    assert couple["metrics"]["children"]["value"] > 0
    report = json.loads((plan.step("reporting").folder / "report.json").read_text())
    assert report["splits"] == [couple]
