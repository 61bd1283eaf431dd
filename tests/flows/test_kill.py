"""SIGKILL at any moment, then the same command: the bytes are those of a quiet run."""

import json
import os
import random
import shutil
import signal
import time

import pytest

pytestmark = pytest.mark.slow
DEADLINE_SECONDS = 120
KILLS = 3

PROFILE = """
name: killed
lm: {kind: embedded, vocab_size: 512, num_layers: 2, d_model: 32, num_heads: 2, ctx: 32,
     train_tokens: 4096}
corpus: {kind: embedded, ctx: 32, max_tokens: 60_000, eval_fraction: 0.2}
harvest: {hooks: [blocks.0.hook_resid_post, blocks.1.hook_resid_post], batch_seqs: 8}
store: {dtype: bfloat16, chunk_mib: 0.02}
saes:
  - {kind: topk, d_sae: 64, k: 4, hook: blocks.1.hook_resid_post}
  - {kind: batchtopk, d_sae: 64, k: 4, hook: blocks.1.hook_resid_post}
  - {kind: jumprelu, d_sae: 64, l0_coefficient: 0.5, hook: blocks.1.hook_resid_post}
  - {kind: relu, d_sae: 64, l1_coefficient: 0.5, hook: blocks.1.hook_resid_post}
control: {k: 4}
training: {batch_tokens: 256, epochs: 2, checkpoint_every_steps: 30, log_every_steps: 7}
sharing: {tracker: wandb}
"""


@pytest.fixture(scope="module")
def killed_profile(tmp_path_factory):
    path = tmp_path_factory.mktemp("killed") / "killed.yaml"
    path.write_text(PROFILE)
    return path


@pytest.fixture(scope="module")
def quiet_home(tmp_path_factory, killed_profile, environ, run_flows):
    """Return the home of a run that nobody disturbed."""
    home = tmp_path_factory.mktemp("quiet")
    ended = run_flows(home, "training", killed_profile)
    assert ended.status == 0, ended.err
    return home


@pytest.mark.parametrize("stage", ["harvest", "training"])
@pytest.mark.parametrize("attempt", range(KILLS))
def test_killed_stage_ends_in_the_same_bytes(
    stage,
    attempt,
    tmp_path,
    quiet_home,
    killed_profile,
    start_flows,
    run_flows,
    digests,
):
    (folder,) = (
        {path.parent for path in quiet_home.glob(f"{stage}/*/RUN.json")}
        if (stage == "harvest")
        else {next(iter(quiet_home.glob(f"{stage}/*/RUN.json"))).parent}
    )
    seconds = json.loads((folder / "RUN.json").read_text())["seconds"]
    home = tmp_path / "home"
    for earlier in ("lm", "corpus", *(["harvest"] if stage == "training" else [])):
        shutil.copytree(quiet_home / earlier, home / earlier)
    fraction = random.SystemRandom().uniform(0.05, 0.9)
    process = start_flows(home, "training", killed_profile)
    begun = home / stage / folder.name / "BEGUN.json"
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not begun.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(fraction * seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    ended = run_flows(home, "training", killed_profile)
    assert ended.status == 0, ended.err
    assert digests(home) == digests(quiet_home), f"killed at {fraction:.3f} of {stage}"


def test_sigterm_checkpoints_and_the_next_run_resumes(
    tmp_path, quiet_home, killed_profile, start_flows, run_flows, digests
):
    home = tmp_path / "home"
    for earlier in ("lm", "corpus", "harvest"):
        shutil.copytree(quiet_home / earlier, home / earlier)
    process = start_flows(home, "training", killed_profile)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not list(home.glob("training/*/checkpoints/*/values.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.terminate()
    _, err = process.communicate()
    assert process.returncode == 1
    (line,) = [line for line in err.splitlines() if line.startswith("stopped: ")]
    assert "resume with: python -m flows training" in line
    ended = run_flows(home, "training", killed_profile)
    assert ended.status == 0, ended.err
    assert "resumes at step" in ended.err + ended.out
    assert digests(home) == digests(quiet_home)
