"""How long the demo takes and how much memory: `python -m benchmarks.demo`.

Runs `configs/quickstart.yaml` twice in a new home and prints a row for RESULTS.md.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PROFILE = "configs/quickstart.yaml"
_MIB = 1 << 20
_POLL_SECONDS = 0.25
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Measured(NamedTuple):
    """One run of the demo."""

    seconds: float
    peak_bytes: int
    """Resident memory of the process and all its children, at its highest."""
    cached: int
    steps: int


def main() -> None:
    """Run the demo twice and print what it took, last as one JSON object."""
    with tempfile.TemporaryDirectory() as folder:
        environ = os.environ | {
            "TRILEMMA_HOME": f"{folder}/artifacts",
            "PREFECT_HOME": f"{folder}/prefect",
        }
        runs = {name: _measure(environ) for name in ("first", "second")}
    python = platform.python_version()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {python}")
    print("| run | seconds | peak MiB | steps cached |\n|---|---|---|---|")
    for name, run in runs.items():
        peak = f"{run.peak_bytes / _MIB:,.0f}"
        print(f"| {name} | {run.seconds:.1f} | {peak} | {run.cached} of {run.steps} |")
    print(json.dumps({name: run._asdict() for name, run in runs.items()}))


def _measure(environ: dict[str, str]) -> Measured:
    began = time.monotonic()
    command = [sys.executable, "-m", "flows", "run", PROFILE]
    peak = 0
    with tempfile.TemporaryFile("w+") as output:
        with subprocess.Popen(
            command, cwd=ROOT, env=environ, stdout=output, stderr=subprocess.STDOUT
        ) as process:
            while process.poll() is None:
                peak = max(peak, _resident_bytes(process.pid))
                time.sleep(_POLL_SECONDS)
        seconds = time.monotonic() - began
        output.seek(0)
        text = output.read()
    if process.returncode:
        sys.exit(text)
    (line,) = [x for x in text.splitlines() if "steps cached" in x]
    cached, made = (int(x.split()[0]) for x in line.split(": ")[-1].split(", ")[:2])
    return Measured(seconds, peak, cached, cached + made)


def _resident_bytes(pid: int) -> int:
    """Return the resident memory of a process and its descendants."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages * _PAGE_BYTES + sum(_resident_bytes(int(c)) for c in children)


if __name__ == "__main__":
    main()
