"""The toy profile: known features, and how well the SAEs found them."""

import json

import pytest

from storage.home import Home
from tasks import plan as planning
from trilemma import config

pytestmark = pytest.mark.slow
LEAST_COSINE = 0.9


@pytest.fixture(scope="module")
def plan(tmp_path_factory, run_flows):
    home = tmp_path_factory.mktemp("toy")
    ended = run_flows(home, "evaluation", "configs/toy.yaml")
    assert ended.status == 0, ended.err
    return planning.make(config.load("configs/toy.yaml"), Home(home))


def metric(plan, name, metric):
    path = plan.step("evaluation", name).folder / "metrics.json"
    return json.loads(path.read_text())["metrics"][metric]["value"]


@pytest.mark.parametrize("name", ["topk-k3", "batchtopk-k3"])
def test_trained_sae_recovers_the_true_features(plan, name):
    assert metric(plan, name, "mmcs") >= LEAST_COSINE


def test_frozen_random_control_does_not(plan):
    assert metric(plan, "frozen-random", "mmcs") < LEAST_COSINE


def test_features_share_fewer_latents_than_in_the_control(plan):
    control = metric(plan, "frozen-random", "polysemanticity")
    for member in plan.run.family():
        if not member.is_control:
            assert metric(plan, member.name, "polysemanticity") < control / 2
