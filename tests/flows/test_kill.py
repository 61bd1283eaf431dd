"""SIGKILL at any moment, then the same command: the bytes are those of a quiet run."""

import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
DEADLINE_SECONDS = 120
KILLS = 3
TRIES = 4
CHECKPOINT_STEPS = 15
CHOICE = random.SystemRandom()

PROFILE = f"""
name: killed
lm: {{kind: embedded, vocab_size: 512, num_layers: 2, d_model: 32, num_heads: 2,
     ctx: 32, train_tokens: 4096}}
corpus: {{kind: embedded, ctx: 32, max_tokens: 30_000, eval_fraction: 0.2}}
harvest: {{hooks: [blocks.0.hook_resid_post, blocks.1.hook_resid_post], batch_seqs: 8}}
store: {{dtype: bfloat16, chunk_mib: 0.02}}
saes:
  - {{kind: topk, d_sae: 64, k: 4, hook: blocks.1.hook_resid_post}}
  - {{kind: batchtopk, d_sae: 64, k: 4, hook: blocks.1.hook_resid_post}}
  - {{kind: jumprelu, d_sae: 64, l0_coefficient: 0.5, hook: blocks.1.hook_resid_post}}
  - {{kind: relu, d_sae: 64, l1_coefficient: 0.5, hook: blocks.1.hook_resid_post,
     resample_every_steps: 20, resample_until_fraction: 1.0}}
control: {{k: 4}}
training: {{batch_tokens: 256, epochs: 2, checkpoint_every_steps: {CHECKPOINT_STEPS},
           log_every_steps: 7, b_dec_init: geometric_median, ema_decay: 0.99,
           eval_every_steps: 11, dead_after_tokens: 2048}}
evaluation: {{ce_seqs: 64, num_resamples: 50, rate_tokens: 4096, num_clusters: 8}}
explanation: {{num_latents: 2, num_resamples: 50}}
sharing: {{tracker: wandb}}
"""


@pytest.fixture(scope="module")
def killed_profile(tmp_path_factory):
    path = tmp_path_factory.mktemp("killed") / "killed.yaml"
    path.write_text(PROFILE)
    return path


@pytest.fixture(scope="module")
def quiet_home(tmp_path_factory, killed_profile, run_flows):
    """Return the home of a run that nobody disturbed."""
    home = tmp_path_factory.mktemp("quiet")
    ended = run_flows(home, "run", killed_profile)
    assert ended.status == 0, ended.err
    return home


@pytest.fixture
def kill_at(tmp_path, quiet_home, killed_profile, start_flows):
    """Return a function that kills a run in a stage, at a share of its progress.

    It gives the home of the killed run. If the stage had finished before the kill, a
    new home is tried with half the share; a kill too late is never a pass.
    """

    def kill(stage: str, earlier: list[str], done: Callable[[Path], int]) -> Path:
        whole = TOTALS[stage](quiet_home)
        share = CHOICE.uniform(0.0, 0.95)
        for attempt in range(TRIES):
            home = tmp_path / f"home-{attempt}"
            for name in earlier:
                shutil.copytree(quiet_home / name, home / name)
            target = max(1, int(share * whole))
            process = start_flows(home, "run", killed_profile)
            deadline = time.monotonic() + DEADLINE_SECONDS
            while done(home) < target and not is_finished(home, stage):
                wait(process, deadline)
            time.sleep(CHOICE.uniform(0.0, 0.2))
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if not is_finished(home, stage):
                print(f"killed {stage} after {done(home)} of {whole}")
                return home
            share /= 2
        pytest.fail(f"{stage} was finished before the kill {TRIES} times")

    return kill


def is_finished(home, stage):
    return bool(list(home.glob(f"{stage}/*/MANIFEST.json")))


def wait(process, deadline):
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.005)


def committed_files(home):
    """Return when each file of a committed chunk was written, by path."""
    found = {}
    for record in home.glob("harvest/*/*.commits/*.json"):
        for name in json.loads(record.read_text())["files"]:
            path = record.parents[1] / name
            found[path] = path.stat().st_mtime_ns
    return found


def committed_chunks(home):
    return len(list(home.glob("harvest/*/*.commits/*.json")))


def all_chunks(home):
    """Return the number of chunks of both splits, each of one hook's arrays."""
    return len(list(home.glob("harvest/*/*.zarr/blocks.0.hook_resid_post/norm/c/*")))


def checkpoints(home):
    """Return how many checkpoints the SAE that is furthest has passed."""
    passed = [0]
    for path in home.glob("training/*/checkpoints/*/values.json"):
        with contextlib.suppress(ValueError):  # a checkpoint still being written
            passed.append(int(path.parent.name) // CHECKPOINT_STEPS)
    return max(passed)


def all_checkpoints(home):
    curve = json.loads(next(home.glob("training/*/curve.json")).read_text())
    return int(curve[-1]["step"]) // CHECKPOINT_STEPS


TOTALS = {"harvest": all_chunks, "training": all_checkpoints}


@pytest.mark.parametrize("attempt", range(KILLS))
def test_killed_harvest_keeps_its_chunks_and_ends_in_the_same_bytes(
    attempt, quiet_home, killed_profile, kill_at, run_flows, digests
):
    home = kill_at("harvest", ["lm", "corpus"], committed_chunks)
    kept = committed_files(home)
    assert kept
    ended = run_flows(home, "run", killed_profile)
    assert ended.status == 0, ended.err
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert digests(home) == digests(quiet_home)


@pytest.mark.parametrize("attempt", range(KILLS))
def test_killed_training_resumes_and_ends_in_the_same_bytes(
    attempt, quiet_home, killed_profile, kill_at, run_flows, digests
):
    home = kill_at("training", ["lm", "corpus", "harvest"], checkpoints)
    ended = run_flows(home, "run", killed_profile)
    assert ended.status == 0, ended.err
    assert "resumes at step" in ended.err + ended.out
    assert digests(home) == digests(quiet_home)


def test_sigterm_checkpoints_and_the_next_run_resumes(
    tmp_path, quiet_home, killed_profile, start_flows, run_flows, digests
):
    home = tmp_path / "home"
    for earlier in ("lm", "corpus", "harvest"):
        shutil.copytree(quiet_home / earlier, home / earlier)
    process = start_flows(home, "run", killed_profile)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not checkpoints(home):
        wait(process, deadline)
    process.terminate()
    _, err = process.communicate()
    assert process.returncode == 1
    (line,) = [line for line in err.splitlines() if line.startswith("stopped: ")]
    assert "resume with: python -m flows run" in line
    ended = run_flows(home, "run", killed_profile)
    assert ended.status == 0, ended.err
    assert "resumes at step" in ended.err + ended.out
    assert digests(home) == digests(quiet_home)
