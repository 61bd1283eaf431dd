"""Crosscoders of two hooks beside SAEs of one of them, through every stage."""

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
FIRST, SECOND = "blocks.0.hook_resid_post", "blocks.1.mlp.hook_post"
WIDTHS = {FIRST: 32, SECOND: 128}
SHORT = (
    f"harvest.hooks=[{FIRST}, {SECOND}]",
    "corpus.max_tokens=20_000",
    "evaluation.ce_seqs=16",
    "evaluation.rate_tokens=500",
    "evaluation.rate_ce_seqs=2",
    "evaluation.cause_seqs=2",
)
SAE = f"{{kind: topk, d_sae: 64, k: 4, hook: {FIRST}}}"
CROSSCODER = f"{{kind: topk, d_sae: 64, k: 4, hook: [{FIRST}, {SECOND}]}}"


def planned(profile, home, *words):
    return planning.make(config.load(profile, (*SHORT, *words)), home)


def crosscoder(plan):
    """Return the training step of the one crosscoder."""
    (found,) = (m for m in plan.run.family() if "+" in m.hook and not m.is_control)
    return plan.step("training", found.name)


def fvu(y, y_hat):
    deviation = (y - y.mean(0)).double().square().sum()
    return float((y - y_hat).double().square().sum() / deviation)


@pytest.mark.slow
def test_crosscoder_goes_through_every_stage(text_profile, own_home, tmp_path):
    words = (
        f"saes=[{SAE}, {CROSSCODER}]",
        "training.eval_every_steps=10",
        "training.eval_tokens=500",
        "training.b_dec_init=geometric_median",
    )
    plan = planned(text_profile, own_home, *words)
    state = run_flow(plan.run, return_state=True)
    assert state.is_completed(), state.message
    step = crosscoder(plan)
    saved = json.loads((step.folder / training.SAE_FOLDER / "cfg.json").read_text())
    assert saved["architecture"] == "trilemma_topk_crosscoder"
    assert saved["hook_widths"] == list(WIDTHS.values())
    assert saved["metadata"]["hook_name"] == f"{FIRST}+{SECOND}"
    sae = training.load_sae(step, "cpu")
    assert sae.widths == tuple(WIDTHS.values())

    held_out, trained = (harvest.open_store(plan, name) for name in ("eval", "train"))
    x = {hook: held_out.first_rows(hook, 10**6) for hook in WIDTHS}
    with torch.no_grad():
        raw = torch.split(sae(torch.cat(list(x.values()), 1)), sae.widths, 1)
    squares = [
        trained.statistics(hook)["mean_squared_norm"] / width
        for hook, width in WIDTHS.items()
    ]
    found = evaluation.read_metrics(plan.step("evaluation", step.name))
    metrics = {name: each["value"] for name, each in found["metrics"].items()}
    for (hook, y), y_hat in zip(x.items(), raw, strict=True):
        assert metrics[f"fvu_at_{hook}"] == pytest.approx(fvu(y, y_hat), rel=1e-3)
    joined, joined_hat = (
        torch.cat([p / s**0.5 for p, s in zip(parts, squares, strict=True)], 1)
        for parts in (x.values(), raw)
    )
    assert metrics["fvu"] == pytest.approx(fvu(joined, joined_hat), rel=1e-3)
    curve = json.loads((step.folder / training.CURVE).read_text())
    assert curve[-1]["eval_fvu"] == pytest.approx(metrics["fvu"], rel=0.2)
    assert metrics["ce_zero"] > metrics["ce_clean"]
    assert metrics["kl"] > 0
    assert set(found["controls"]) == {"pca", "frozen_random"}
    latents = evaluation.read_latents(plan.step("evaluation", step.name))
    shares = torch.tensor([latents[f"decoder_share_{hook}"] for hook in WIDTHS])
    torch.testing.assert_close(shares.sum(0), torch.ones(64))
    assert explanation.read(plan.step("explanation", step.name))
    page = (plan.step("reporting").folder / "index.html").read_text()
    assert f"topk-k4-{FIRST}-{SECOND}" in page
    assert f"decoder norm at {SECOND}" in page

    path = shutil.copytree(step.folder / training.SAE_FOLDER, tmp_path / "theirs")
    again = f"{{kind: pretrained, path: {path}, hook: [{FIRST}, {SECOND}]}}"
    published = planned(text_profile, own_home, f"saes=[{SAE}, {again}]")
    state = run_flow(published.run, return_state=True)
    assert state.is_completed(), state.message
    theirs = published.step("evaluation", "pretrained-theirs")
    assert evaluation.read_metrics(theirs)["metrics"] == found["metrics"]

    turned = again.replace(f"[{FIRST}, {SECOND}]", f"[{SECOND}, {FIRST}]")
    for word, said in (
        (turned, "found widths [32, 128], but hook names widths [128, 32]"),
        (again.replace(f"[{FIRST}, {SECOND}]", FIRST), "but hook names one hook"),
    ):
        bare = planned(text_profile, own_home, f"saes=[{SAE}, {word}]")
        state = training_flow(bare.run, force=False, return_state=True)
        assert said in state.message, state.message
        assert state.message.endswith("trained on, in their order")


def test_crosscoder_beside_others_has_the_bytes_that_it_has_alone(
    text_profile, own_home, tmp_path, monkeypatch
):
    beside = planned(text_profile, own_home, f"saes=[{SAE}, {CROSSCODER}]")
    state = training_flow(beside.run, force=False, return_state=True)
    assert state.is_completed(), state.message
    other = Home(tmp_path / "other")
    monkeypatch.setenv(homes.VARIABLE, str(other.path))
    for stage in ("lm", "corpus", "harvest"):
        shutil.copytree(own_home.path / stage, other.path / stage)
    alone = planned(text_profile, other, f"saes=[{CROSSCODER}]")
    state = training_flow(alone.run, force=False, return_state=True)
    assert state.is_completed(), state.message
    steps = [crosscoder(plan) for plan in (beside, alone)]
    assert steps[0].key == steps[1].key
    digests = [step.manifest().digest for step in steps]
    assert digests[0] == digests[1]
    # Its control is a crosscoder too.
    assert [member.hook for member in alone.run.family()] == [f"{FIRST}+{SECOND}"] * 2


def test_the_order_of_hooks_changes_the_key_of_a_crosscoder_alone(
    text_profile, own_home
):
    turned = CROSSCODER.replace(f"[{FIRST}, {SECOND}]", f"[{SECOND}, {FIRST}]")
    plans = [
        planned(text_profile, own_home, f"saes=[{SAE}, {each}]")
        for each in (CROSSCODER, turned)
    ]
    keys = [[step.key for step in plan.of("training")] for plan in plans]
    same = [ours == theirs for ours, theirs in zip(*keys, strict=True)]
    # The SAE and its control, and the crosscoder and its.
    assert same == [True, False, True, False]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_crosscoder_resumes_to_the_same_bytes(
    text_profile, killed_and_quiet, ranks
):
    words = (
        *SHORT,
        f"saes=[{SAE}, {CROSSCODER}]",
        "training.epochs=4",
        "training.batch_tokens=128",
        "training.checkpoint_every_steps=7",
        f"compute.ranks_per_sae={ranks}",
    )
    killed, quiet = killed_and_quiet(
        text_profile, *words, deadline_seconds=DEADLINE_SECONDS
    )
    assert killed == quiet
