"""Contestants of the training benchmark, each a process in its own environment."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from benchmarks.trainers.serving import Contest

OURS = "Trilemma"
KINDS = {
    "topk": (OURS, "sparsify", "SAELens", "dictionary_learning"),
    "batchtopk": (OURS, "SAELens", "dictionary_learning"),
    "relu": (OURS, "SAELens", "dictionary_learning"),
    "jumprelu": (OURS, "SAELens", "dictionary_learning"),
}
MODULES = {
    OURS: "ours",
    "SAELens": "saelens",
    "dictionary_learning": "dictionary_learning",
    "sparsify": "sparsify",
}
# sparsify allocates a row of d_in for every active latent, anew at each step: glibc is
# told to keep such memory instead of returning it to the kernel.
_ENVIRONMENTS = {
    "sparsify": {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
        "MALLOC_TOP_PAD_": str(64 << 20),
    }
}


class Contestant:
    """A trainer that waits in its process until it is told to go on."""

    def __init__(
        self, name: str, process: "subprocess.Popen[str]", folder: Path
    ) -> None:
        self.name = name
        self._process = process
        self._folder = folder
        self.dtype: str = self._answer()["dtype"]
        """In which its encoder multiplies."""

    def run(self, num_steps: int) -> float:
        """Return the seconds that so many steps took, by its own clock."""
        return float(self._ask(f"run {num_steps}")["seconds"])

    def weights(self) -> dict[str, Tensor]:
        """Return its weights as they stand."""
        path = self._folder / "weights.safetensors"
        self._ask(f"save {path}")
        return load_file(path)

    def _ask(self, line: str) -> dict[str, Any]:  # `Any`: JSON values
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # the libraries print, too
                found: dict[str, Any] = json.loads(line)
                return found
        log = (self._folder / "stderr").read_text()
        raise RuntimeError(f"{self.name} failed: {log[-2000:]}")


@contextmanager
def started(
    name: str, contest: Contest, *, folder: Path, peers_python: Path
) -> Iterator[Contestant]:
    """Yield a contestant that has taken its first step; end its process afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    python = sys.executable if name == OURS else str(peers_python)
    words = [python, "-m", f"benchmarks.trainers.{MODULES[name]}"]
    environment: Mapping[str, str] = _ENVIRONMENTS.get(name, {})
    with (
        (folder / "stderr").open("w") as log,
        subprocess.Popen(
            [*words, json.dumps(contest._asdict())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | environment,
        ) as process,
    ):
        yield Contestant(name, process, folder)
