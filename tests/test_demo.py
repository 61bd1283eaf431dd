"""The demo's own figures, read from the artifacts that `make demo` left."""

import json

import pytest

from storage import home
from tasks import evaluation, lm
from tasks import plan as planning
from trilemma import config

pytestmark = pytest.mark.demo
MOST_NATS = 4.25


@pytest.fixture(scope="module")
def plan():
    return planning.make(config.load("configs/quickstart.yaml"), home.find())


def test_every_stage_is_done(plan):
    assert {step.state() for step in plan.steps} == {"done"}


def test_embedded_lm_meets_its_loss(plan):
    card = json.loads((plan.step("lm").folder / lm.CARD).read_text())
    assert card["train_tokens"] >= 1_150_000
    assert card["val_loss"] <= MOST_NATS < card["unigram_entropy"]


def test_family_has_three_kinds_at_two_sparsities_and_a_control(plan):
    family = plan.run.family()
    trained = [member for member in family if not member.is_control]
    assert len(trained) >= 6
    assert len({member.config.kind for member in trained}) >= 3
    assert sum(member.is_control for member in family) == 1


def test_every_sae_beats_the_frozen_random_one_at_its_own_l0(plan):
    for member in plan.run.family():
        measured = evaluation.read_metrics(plan.step("evaluation", member.name))
        control = measured["controls"]["frozen_random"]
        if member.is_control:
            continue
        assert measured["metrics"]["fvu"]["value"] < control["fvu"]["value"]
        assert control["l0"]["value"] >= measured["metrics"]["l0"]["value"]


def test_pca_takes_the_rate_of_the_sae_it_is_compared_with(plan):
    for member in plan.run.family():
        measured = evaluation.read_metrics(plan.step("evaluation", member.name))
        pca = measured["controls"]["pca"]["rate_bits"]["value"]
        assert pca == pytest.approx(measured["metrics"]["rate_bits"]["value"], rel=0.05)
