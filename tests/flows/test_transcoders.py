"""Transcoders beside SAEs of the hook that they read, through every stage."""

import json
import shutil

import pytest
import torch

from flows.run import run as run_flow
from flows.training import training as training_flow
from storage import home as homes
from storage.home import Home
from tasks import evaluation, explanation, harvest, training
from tasks import plan as planning
from trilemma import config

pytestmark = pytest.mark.usefixtures("prefect")
DEADLINE_SECONDS = 120
READ, WRITTEN = "blocks.0.hook_resid_post", "blocks.1.mlp.hook_post"
SHORT = (
    f"harvest.hooks=[{READ}, {WRITTEN}]",
    "corpus.max_tokens=20_000",
    "evaluation.ce_seqs=16",
    "evaluation.rate_tokens=500",
    "evaluation.rate_ce_seqs=2",
    "evaluation.cause_seqs=2",
)
SAE = f"{{kind: topk, d_sae: 64, k: 4, hook: {READ}}}"
TRANSCODER = (
    f"{{kind: topk, d_sae: 64, k: 4, hook: {READ}, target_hook: {WRITTEN}, skip: true}}"
)


def planned(profile, home, *words):
    return planning.make(config.load(profile, (*SHORT, *words)), home)


def transcoder(plan):
    """Return the training step of the one transcoder."""
    (found,) = (m for m in plan.run.family() if m.target_hook != m.hook)
    return plan.step("training", found.name)


@pytest.mark.slow
def test_transcoder_goes_through_every_stage(text_profile, own_home, tmp_path):
    words = (
        f"saes=[{SAE}, {TRANSCODER}]",
        "training.eval_every_steps=10",
        "training.eval_tokens=500",
    )
    plan = planned(text_profile, own_home, *words)
    state = run_flow(plan.run, return_state=True)
    assert state.is_completed(), state.message
    step = transcoder(plan)
    sae = training.load_sae(step, "cpu")
    assert (sae.d_in, sae.d_out) == (32, 128)
    assert sae.metadata["hook_name"] == READ
    assert sae.metadata["hook_name_out"] == WRITTEN
    evaluated = plan.step("evaluation", step.name)
    assert evaluated.parents["evaluation/baseline"].name == f"baseline-{WRITTEN}"
    found = evaluation.read_metrics(evaluated)
    curve = json.loads((step.folder / training.CURVE).read_text())
    held_out = harvest.open_store(plan, "eval")
    x, y = (held_out.first_rows(hook, 10**6) for hook in (READ, WRITTEN))
    with torch.no_grad():
        error = (y - sae(x)).double().square().sum()
    fvu = float(error / (y - y.mean(0)).double().square().sum())
    assert found["metrics"]["fvu"]["value"] == pytest.approx(fvu, rel=1e-3)
    assert curve[-1]["eval_fvu"] == pytest.approx(fvu, rel=0.2)
    assert found["metrics"]["kl"]["value"] > 0
    assert "enc_dec_cos" not in found["metrics"]
    assert set(found["controls"]) == {"pca", "frozen_random"}
    assert explanation.read(plan.step("explanation", step.name))
    page = (plan.step("reporting").folder / "index.html").read_text()
    assert f"topk-k4-to_{WRITTEN}-skipTrue" in page

    path = shutil.copytree(step.folder / training.SAE_FOLDER, tmp_path / "theirs")
    again = f"{{kind: pretrained, path: {path}, hook: {READ}, target_hook: {WRITTEN}}}"
    published = planned(text_profile, own_home, f"saes=[{SAE}, {again}]")
    state = run_flow(published.run, return_state=True)
    assert state.is_completed(), state.message
    theirs = published.step("evaluation", "pretrained-theirs")
    assert evaluation.read_metrics(theirs)["metrics"] == found["metrics"]

    without = again.replace(f", target_hook: {WRITTEN}", "")
    bare = planned(text_profile, own_home, f"saes=[{SAE}, {without}]")
    state = training_flow(bare.run, force=False, return_state=True)
    assert state.message.endswith(
        f"{path}: found a transcoder; name its target_hook"
    ), state.message


def test_transcoder_beside_others_has_the_bytes_that_it_has_alone(
    text_profile, own_home, tmp_path, monkeypatch
):
    beside = planned(text_profile, own_home, f"saes=[{SAE}, {TRANSCODER}]")
    state = training_flow(beside.run, force=False, return_state=True)
    assert state.is_completed(), state.message
    other = Home(tmp_path / "other")
    monkeypatch.setenv(homes.VARIABLE, str(other.path))
    for stage in ("lm", "corpus", "harvest"):
        shutil.copytree(own_home.path / stage, other.path / stage)
    alone = planned(text_profile, other, f"saes=[{TRANSCODER}]")
    state = training_flow(alone.run, force=False, return_state=True)
    assert state.is_completed(), state.message
    steps = [transcoder(plan) for plan in (beside, alone)]
    assert steps[0].key == steps[1].key
    digests = [step.manifest().digest for step in steps]
    assert digests[0] == digests[1]
    # Its control stands on what it reconstructs, and nothing on what it reads.
    assert [member.hook for member in alone.run.family()] == [READ, WRITTEN]


def test_transcoders_are_not_held_against_narrower_ones(text_profile, own_home):
    wider = TRANSCODER.replace("d_sae: 64", "d_sae: 96")
    plan = planned(text_profile, own_home, f"saes=[{TRANSCODER}, {wider}]")
    names = [step.name for step in plan.of("evaluation")]
    assert not [name for name in names if name.startswith("splits-")]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_transcoder_resumes_to_the_same_bytes(
    text_profile, killed_and_quiet, ranks
):
    words = (
        *SHORT,
        f"saes=[{SAE}, {TRANSCODER}]",
        "training.epochs=4",
        "training.batch_tokens=128",
        "training.checkpoint_every_steps=7",
        f"compute.ranks_per_sae={ranks}",
    )
    killed, quiet = killed_and_quiet(
        text_profile, *words, deadline_seconds=DEADLINE_SECONDS
    )
    assert killed == quiet
