"""Seeds of one SAE in a family: the report says how stable its latents are."""

import json

import pytest

from storage import tables
from storage.home import Home
from tasks import plan as planning
from trilemma import config

pytestmark = pytest.mark.slow
WORDS = ("grid={seed: [0, 1]}",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, profile, run_flows):
    """Return the folder of a report on two seeds and a control."""
    home = tmp_path_factory.mktemp("seeds")
    ended = run_flows(home, "reporting", profile, *WORDS)
    assert ended.status == 0, ended.err
    plan = planning.make(config.load(profile, WORDS), Home(home))
    return plan.step("reporting").folder


@pytest.fixture(scope="module")
def members(folder):
    report = json.loads((folder / "report.json").read_text())
    return {member["name"]: member["metrics"] for member in report["members"]}


@pytest.mark.parametrize("kind", ["topk-k2", "batchtopk-k2"])
def test_two_seeds_are_matched_with_each_other(members, kind):
    first, second = (members[f"{kind}-seed{seed}"]["stability"] for seed in (0, 1))
    assert first["value"] == pytest.approx(second["value"])
    assert 0 < first["value"] <= 1


def test_the_control_has_no_other_seed_and_says_so(members):
    control = members["frozen-random"]["stability"]
    assert control["value"] is None
    assert control["reason"] == "the family has no other seed of it"


def test_latents_tell_their_nearest_of_the_other_seed(folder):
    columns = tables.read(folder / "latents.parquet")
    found = dict.fromkeys(columns["member"], False)
    for name, best in zip(columns["member"], columns["stability"], strict=True):
        found[name] |= best is not None
    assert [found[name] for name in found] == ["seed" in name for name in found]
