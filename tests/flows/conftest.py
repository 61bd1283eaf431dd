"""A tiny toy profile, a home of its own, and the command line as a user types it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from prefect.settings import (
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_LOGGING_LEVEL,
    temporary_settings,
)
from prefect.testing.utilities import prefect_test_harness

from storage import home as homes
from storage.home import Home

ROOT = Path(__file__).parents[2]
TINY = """
name: tiny
toy: {num_features: 8, d_in: 8, density: 0.1, num_tokens: 4096, ctx: 16,
      num_eval_tokens: 1024}
store: {chunk_mib: 0.03}
saes:
  - {kind: topk, d_sae: 12, k: 2}
  - {kind: batchtopk, d_sae: 12, k: 2}
control: {k: 2}
training: {batch_tokens: 256, log_every_steps: 4, checkpoint_every_steps: 3}
evaluation: {num_resamples: 50}
explanation: {num_latents: 3, num_resamples: 50}
sharing: {tracker: none}
"""


TEXT = """
name: text
lm: {kind: embedded, vocab_size: 512, num_layers: 2, d_model: 32, num_heads: 2, ctx: 32,
     train_tokens: 4096}
corpus: {kind: embedded, ctx: 32, max_tokens: 60_000, eval_fraction: 0.3}
harvest: {hooks: [blocks.0.hook_resid_post, blocks.1.hook_resid_post], batch_seqs: 8}
store: {dtype: bfloat16, chunk_mib: 0.02}
saes: [{kind: topk, d_sae: 64, k: 4, hook: blocks.1.hook_resid_post}]
control: {k: 4}
training: {batch_tokens: 512}
evaluation: {ce_seqs: 500, num_resamples: 50, rate_tokens: 4096, num_clusters: 8,
             probe_rows: 64}
explanation: {num_latents: 3, num_resamples: 50}
sharing: {tracker: none}
"""


class Finished(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="session")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a profile that runs in seconds."""
    path = tmp_path_factory.mktemp("profile") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def text_profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a profile with a tiny LM and two hooks, in bfloat16."""
    path = tmp_path_factory.mktemp("profile") / "text.yaml"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="session")
def prefect() -> Iterator[None]:
    """Run flows of this process against a Prefect server of its own."""
    settings = {
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
        PREFECT_LOGGING_LEVEL: "CRITICAL",
    }
    with prefect_test_harness(server_startup_timeout=120), temporary_settings(settings):
        yield


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return an empty home."""
    return tmp_path / "home"


@pytest.fixture
def own_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Return an empty home that flows of this process use."""
    monkeypatch.setenv(homes.VARIABLE, str(home))
    return Home(home)


@pytest.fixture(scope="session")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of commands: Prefect's own home, nothing online."""
    return os.environ | {
        "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")),
        "HF_HUB_OFFLINE": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # Several runs at once on few cores would wait for each other by spinning.
        "OMP_WAIT_POLICY": "PASSIVE",
    }


@pytest.fixture(scope="session")
def start_flows(environ: dict[str, str]) -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts `python -m flows` on a home, in its own group."""

    def start(home: Path, *words: str | Path, **extra: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "flows", *map(str, words)],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environ | {"TRILEMMA_HOME": str(home)} | extra,
            start_new_session=True,
        )

    return start


@pytest.fixture
def killed_and_quiet(
    tmp_path: Path,
    start_flows: Callable[..., subprocess.Popen[str]],
    run_flows: Callable[..., Finished],
    digests: Callable[[Path], dict[str, str]],
) -> Callable[..., tuple[dict[str, str], dict[str, str]]]:
    """Return a function that gives the digests of a killed training and a quiet one.

    The one is killed once it has a whole checkpoint, and then resumes.
    """

    def train(
        profile: Path, *words: str, deadline_seconds: float
    ) -> tuple[dict[str, str], dict[str, str]]:
        quiet, killed = tmp_path / "quiet", tmp_path / "killed"
        ended = run_flows(quiet, "training", profile, *words)
        assert ended.status == 0, ended.err
        for stage in ("lm", "corpus", "harvest"):
            shutil.copytree(quiet / stage, killed / stage)
        process = start_flows(killed, "training", profile, *words)
        deadline = time.monotonic() + deadline_seconds
        # A checkpoint that is not whole has another name.
        while not list(killed.glob("training/*/checkpoints/[0-9]*/values.json")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        ended = run_flows(killed, "training", profile, *words)
        assert ended.status == 0, ended.err
        assert "resumes at step" in ended.err + ended.out
        return digests(killed), digests(quiet)

    return train


@pytest.fixture(scope="session")
def run_flows(
    start_flows: Callable[..., subprocess.Popen[str]],
) -> Callable[..., Finished]:
    """Return a function that runs `python -m flows` on a home to its end."""

    def run(home: Path, *words: str | Path, **extra: str) -> Finished:
        with start_flows(home, *words, **extra) as process:
            out, err = process.communicate(timeout=300)
        return Finished(process.returncode, out, err)

    return run


@pytest.fixture
def flows(home: Path, run_flows: Callable[..., Finished]) -> Callable[..., Finished]:
    """Return a function that runs `python -m flows` on this test's home."""
    return lambda *words, **extra: run_flows(home, *words, **extra)


@pytest.fixture(scope="session")
def digests() -> Callable[[Path], dict[str, str]]:
    """Return a function: the digest of every artifact in a home, sharing's left out."""

    def found(home: Path) -> dict[str, str]:
        manifests = [json.loads(p.read_text()) for p in home.glob("*/*/MANIFEST.json")]
        return {
            f"{manifest['stage']}/{manifest['key']}": manifest["digest"]
            for manifest in manifests
            if manifest["stage"] != "sharing"
        }

    return found
