"""The training stage: its settings together, and what one SAE's failure leaves."""

import json
import re
import shutil

import pytest
from torch.nn.functional import normalize

from flows.training import training as training_flow
from storage import checkpoints
from storage import home as homes
from storage.home import Home
from tasks import hook_rows, hooks, training
from tasks import plan as planning
from trilemma import config, objective

pytestmark = pytest.mark.usefixtures("prefect")
# Batches of 256 rows: a latent is dead after two of them.
SETTINGS = (
    "training.b_dec_init=geometric_median",
    "training.ema_decay=0.9",
    "training.eval_every_steps=3",
    "training.eval_tokens=500",
    "training.dead_after_tokens=512",
    "grid={resample_every_steps: [4], resample_until_fraction: [1.0]}",
)


@pytest.fixture
def train(tmp_path, monkeypatch, profile):
    """Return a function: the plan of a training with these words, and how it ended."""
    monkeypatch.setenv(homes.VARIABLE, str(tmp_path / "home"))

    def run(*words):
        loaded = config.load(profile, words)
        state = training_flow(loaded, force=False, return_state=True)
        ending = state.result(raise_on_failure=False)
        return planning.make(loaded, Home(tmp_path / "home")), ending

    return run


def test_every_setting_is_taken_and_told(train, caplog):
    with caplog.at_level("INFO"):
        plan, ending = train(*SETTINGS)
    assert not ending.failed
    lines = [record.getMessage() for record in caplog.records]
    (median,) = [line for line in lines if "geometric median" in line]
    # The tiny store has fewer rows than the sample.
    assert re.match(
        r"training: b_dec of toy starts at the geometric median of 4,096 rows, found "
        r"after \d+ iterations, \S+ from the mean of rows of norm \S+$",
        median,
    )
    assert hooks.MEDIAN_ROWS > 4096
    assert (
        "training topk-k2: peak lr 0.00739, from a width of 12 latents, 16 steps, "
        "4,096 tokens" in lines
    )
    step = plan.step("training", "topk-k2")
    curve = json.loads((step.folder / training.CURVE).read_text())
    measured = [row["step"] for row in curve if row["eval_fvu"] is not None]
    assert measured == [3, 6, 9, 12, 15, 16]
    assert 0 < curve[-1]["eval_fvu"] < 1.5
    sae = json.loads((step.folder / training.SAE_FOLDER / "cfg.json").read_text())
    settings = sae["metadata"]["trilemma"]["config"]
    assert settings["resample_every_steps"] == 4


def test_latents_begin_as_rows_of_the_store_whatever_width_is_beside_them(train):
    def sae_of(*widths):
        saes = [f"{{kind: topk, d_sae: {d}, k: 2, lr: 1e-12}}" for d in widths]
        plan, ending = train(f"saes=[{', '.join(saes)}]")
        assert not ending.failed
        found = {
            member.config.d_sae: plan.step("training", member.name)
            for member in plan.run.family()
            if not member.is_control
        }
        return plan, found[20]

    plan, beside = sae_of(20, 30)
    stored = hook_rows.of(plan, "train", "toy")
    wanted = objective.rows_to_begin_as(plan.member(beside.name).config, stored.num)
    rows = stored.at(wanted).double()
    mean = hook_rows.start(plan, "toy").mean.double()
    W_dec = training.load_sae(beside, "cpu").W_dec.detach().double()
    cosines = normalize(W_dec, dim=1) @ normalize(rows - mean, dim=1).t()
    assert cosines.amax(1).min() > 0.98
    digest = beside.manifest().digest
    shutil.rmtree(beside.folder)
    _, alone = sae_of(20)
    assert alone.key == beside.key
    assert alone.manifest().digest == digest


def test_an_sae_that_fails_keeps_the_checkpoint_of_the_step_before(train):
    words = ("saes.0.lr=1e30", "training.clip_norm=1e30")
    plan, ending = train(*words)
    step = plan.step("training", "topk-k2-lr1e+30")
    reason = ending.failed[step.title]
    found = re.search(
        r"at step (\d+); .* \(the checkpoint of step (\d+) is kept\)$", reason
    )
    failed_at, kept = map(int, found.groups())
    assert kept == failed_at - 1
    saved = checkpoints.latest(step.folder / "checkpoints", key=step.key)
    assert saved.step == kept == saved.values["step_index"]
    assert plan.step("training", "batchtopk-k2").state() == "done"
    _, again = train(*words)
    assert again.failed == ending.failed


def test_a_checkpoint_of_another_config_fails_its_sae_alone(train, tmp_path):
    plan, _ = train("saes.0.lr=1e30", "training.clip_norm=1e30")
    failed = plan.step("training", "topk-k2-lr1e+30")
    other = planning.make(
        plan.run.model_copy(
            update={"training": plan.run.training.model_copy(update={"epochs": 2})}
        ),
        plan.home,
    )
    step = other.step("training", failed.name)
    step.folder.parent.mkdir(parents=True, exist_ok=True)
    step.folder.mkdir()
    (failed.folder / "checkpoints").rename(step.folder / "checkpoints")
    (step.folder / "BEGUN.json").write_text((failed.folder / "BEGUN.json").read_text())
    _, ending = train("saes.0.lr=1e30", "training.clip_norm=1e30", "training.epochs=2")
    assert list(ending.failed) == [step.title]
    assert ending.failed[step.title].endswith(
        f"was written by another version, or for another config, than that of key "
        f"{step.key}; delete {step.folder / 'checkpoints'} and run again"
    )
    assert other.step("training", "batchtopk-k2").state() == "done"


def test_resampling_without_effect_fails_its_sae_alone(train):
    plan, ending = train(
        "saes.0.resample_every_steps=4", "saes.0.resample_until_fraction=0.5"
    )
    (title,) = ending.failed
    assert "found resample_every_steps 4, but at step 8 of 16" in ending.failed[title]
    assert plan.step("training", "batchtopk-k2").state() == "done"
