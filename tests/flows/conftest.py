"""A tiny toy profile, a home of its own, and the command line as a user types it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
TINY = """
name: tiny
toy: {num_features: 8, d_in: 8, density: 0.1, num_tokens: 4096, num_eval_tokens: 1024, ctx: 16}
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


class Finished(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """Return the path of a profile that runs in seconds."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return an empty home."""
    return tmp_path / "home"


@pytest.fixture(scope="session")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of commands: Prefect's own home, nothing online."""
    return os.environ | {
        "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")),
        "HF_HUB_OFFLINE": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }


@pytest.fixture
def start(home: Path, environ: dict[str, str]) -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts `python -m flows` with some words."""

    def started(*words: str | Path, **extra: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "flows", *map(str, words)],
            cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environ | {"TRILEMMA_HOME": str(home)} | extra,
        )

    return started


@pytest.fixture
def flows(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., Finished]:
    """Return a function that runs `python -m flows` with some words to its end."""

    def run(*words: str | Path, **extra: str) -> Finished:
        with start(*words, **extra) as process:
            out, err = process.communicate(timeout=300)
        return Finished(process.returncode, out, err)

    return run


def digests(home: Path) -> dict[str, str]:
    """Return the digest of every committed artifact but those of sharing."""
    found = {}
    for path in sorted(home.glob("*/*/MANIFEST.json")):
        manifest = json.loads(path.read_text())
        if manifest["stage"] != "sharing":
            found[f"{manifest['stage']}/{manifest['key']}"] = manifest["digest"]
    return found
