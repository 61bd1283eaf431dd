"""Nights by themselves: a schedule, a worker, a retry, and no process left behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
START_SECONDS = 150
RUN_SECONDS = 150


class Server(NamedTuple):
    """A Prefect server on loopback."""

    url: str

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{self.url}/{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                return True
        except OSError:
            return False

    def nights(self, *names: str) -> list[dict[str, Any]]:
        """Return the nightly runs in a state of one of these names, oldest first."""
        runs: list[dict[str, Any]] = self.post(
            "flow_runs/filter",
            {
                "flows": {"name": {"any_": ["nightly"]}},
                "flow_runs": {"state": {"name": {"any_": list(names)}}},
            },
        )
        return sorted(runs, key=lambda run: run["expected_start_time"])


def until(found: Callable[[], Any], seconds: float) -> Any:
    """Return what a function finds once it finds something."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"{found} found nothing in {seconds} s"
        time.sleep(0.2)
    return value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def quiet_environ(environ, tmp_path, home) -> dict[str, str]:
    """Return the environment of commands with a Prefect home of this test's own."""
    here = environ | {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "TRILEMMA_HOME": str(home),
        "DO_NOT_TRACK": "1",
        # A failure is told after one try, and a run is picked up soon.
        "PREFECT_RUNNER_POLL_FREQUENCY": "2",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
    }
    here.pop("PREFECT_API_URL", None)
    return here


@pytest.fixture
def night(tmp_path, profile) -> Path:
    path = tmp_path / "night.yaml"
    path.write_text(f"profiles: [{profile}]\n")
    return path


@pytest.fixture
def serve(
    quiet_environ, tmp_path, night
) -> Iterator[Callable[[str], tuple[subprocess.Popen[bytes], Server]]]:
    """Return a function that serves the night and waits for its server."""
    processes = []

    def start(cron: str) -> tuple[subprocess.Popen[bytes], Server]:
        log = tmp_path / "serve.log"
        with log.open("wb") as sink:
            command = ["-m", "flows", "serve", str(night), "--cron", cron]
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=quiet_environ,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        processes.append(process)

        def url() -> str | None:
            assert process.poll() is None, log.read_text()
            said = log.read_text()
            if "is being served" not in said:
                return None
            return "http://" + said.partition("our own, http://")[2].split()[0]

        return process, Server(until(url, START_SECONDS) + "/api")

    yield start
    for process in processes:
        process.terminate()
        process.wait(RUN_SECONDS)


@pytest.fixture
def server(quiet_environ, tmp_path) -> Iterator[Server]:
    """Return a Prefect server such as a team has, in a process of its own."""
    port = free_port()
    command = ["-m", "prefect", "server", "start", "--port", str(port)]
    with (tmp_path / "server.log").open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=quiet_environ,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        here = Server(f"http://127.0.0.1:{port}/api")
        until(here.answers, START_SECONDS)
        yield here
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def command(quiet_environ, server) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs a module on that server, to its end."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *words],
            cwd=ROOT,
            env=quiet_environ | {"PREFECT_API_URL": server.url},
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )

    return run


def test_a_served_night_fires_twice_and_the_second_is_cached(serve, home):
    _, server = serve("* * * * *")
    (first,) = until(lambda: server.nights("Completed"), 60 + RUN_SECONDS)
    made = {path: path.read_bytes() for path in home.glob("*/*/MANIFEST.json")}
    assert len(made) == 13
    second = until(lambda: server.nights("Cached"), 60 + RUN_SECONDS)[0]
    assert second["expected_start_time"] > first["expected_start_time"]
    assert {p: p.read_bytes() for p in home.glob("*/*/MANIFEST.json")} == made


def test_a_night_that_is_due_during_another_is_cancelled(serve):
    _, server = serve("0 0 1 1 *")
    (deployment,) = server.post("deployments/filter", {})
    for _ in range(2):
        server.post(f"deployments/{deployment['id']}/create_flow_run", {})
    until(lambda: server.nights("Completed"), RUN_SECONDS)
    assert len(server.nights("Completed", "Cached")) == 1
    assert len(server.nights("Cancelled")) == 1


def test_a_night_under_way_is_stopped_before_its_server(serve, home):
    process, server = serve("0 0 1 1 *")
    (deployment,) = server.post("deployments/filter", {})
    server.post(f"deployments/{deployment['id']}/create_flow_run", {})
    until(lambda: server.nights("Running"), RUN_SECONDS)
    process.terminate()
    process.wait(RUN_SECONDS)
    assert not server.answers()
    until(lambda: processes_of(home) == [], 30)  # the night may still be ending


def test_a_server_of_our_own_dies_with_a_process_that_is_killed(serve):
    process, server = serve("0 0 1 1 *")
    assert server.answers()
    os.killpg(process.pid, signal.SIGKILL)
    until(lambda: not server.answers(), 30)


def test_a_night_that_failed_is_retried_to_its_end(command, server, tmp_path, profile):
    late = tmp_path / "late.yaml"
    night = tmp_path / "two.yaml"
    night.write_text(f"profiles: [{late}, {profile}]\n")
    ended = command("flows", "nightly", str(night))
    assert ended.returncode == 1, ended.stderr
    (failed,) = server.nights("Failed")
    late.write_text(profile.read_text())
    retry = ("prefect", "flow-run", "retry", failed["id"])
    ended = command(*retry, "--entrypoint", "flows.nightly.nightly")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (again,) = server.nights("Completed", "Cached")
    assert (again["id"], again["run_count"]) == (failed["id"], 2)


def test_the_deployment_runs_in_a_worker_and_its_failure_is_retried(
    command, server, home, profile
):
    pool = ("work-pool", "create", "trilemma", "--type", "process")
    parameters = json.dumps({"profiles": [str(profile)], "words": []})
    worker = ("worker", "start", "--pool", "trilemma", "--run-once")
    home.write_text("a file where the folder should be")
    for words in (
        pool,
        ("--no-prompt", "deploy", "--all"),
        ("deployment", "run", "nightly/nightly", "--params", parameters),
        worker,
    ):
        ended = command("prefect", *words)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    (failed,) = server.nights("Failed")
    assert "cannot be written (File exists)" in failed["state"]["message"]
    home.unlink()
    for words in (("flow-run", "retry", failed["id"]), worker):
        ended = command("prefect", *words)
        assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [run["id"] for run in server.nights("Completed")] == [failed["id"]]


def processes_of(home: Path) -> list[int]:
    """Return the processes that have this home in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"TRILEMMA_HOME={home}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found
