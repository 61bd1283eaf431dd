"""Serve a night on this machine: its schedule, and a Prefect server to keep it."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import (
    ConcurrencyLimitConfig,
    ConcurrencyLimitStrategy,
)
from prefect.client.schemas.schedules import CronSchedule
from prefect.flows import Flow
from prefect.schedules import Cron, Schedule
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from trilemma.config.nightly import Nightly

_START_SECONDS = 120
_CHECKPOINT_SECONDS = 120
_STOP_SECONDS = 10
# Prefect keeps who holds a deployment's slot in memory unless told otherwise; a night
# killed together with the server would then hold its slot for ever.
_LEASES = {
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
        "prefect.server.concurrency.lease_storage.filesystem"
    )
}
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class ServerError(RuntimeError):
    """The Prefect server cannot be reached, or did not start."""


def schedule(cron: str, timezone: str) -> Schedule:
    """Return the schedule that a cron line means.

    Raises:
        ValueError: it is no cron line, or there is no such time zone.
    """
    try:
        CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        (where,) = error.errors()[0]["loc"]
        if where == "timezone":
            hint = "name one such as UTC or Europe/Berlin"
            raise ValueError(f"--timezone: found {timezone!r}; {hint}") from error
        hint = "write minute, hour, day, month and weekday, such as '0 2 * * *'"
        raise ValueError(f"--cron: found {cron!r}; {hint}") from error
    return Cron(cron, timezone=timezone)


def serve(flow: Flow[..., Any], night: Nightly, when: Schedule) -> None:
    """Run a flow on a night at each scheduled time, until the process is asked to stop.

    A night that is still going on when the next is due is let be: the next one is
    cancelled. Prefect's own temporary server schedules nothing, so there is a whole
    one beside this process, unless PREFECT_API_URL names one.

    Raises:
        ServerError: the server named cannot be reached, or ours did not start.
    """
    with _server(), _nights_stopped():
        flow.serve(
            name=flow.name,
            schedule=when,
            parameters=night.model_dump(mode="json"),
            global_limit=ConcurrencyLimitConfig(
                limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
            ),
            entrypoint_type=EntrypointType.MODULE_PATH,
        )


@contextlib.contextmanager
def _nights_stopped() -> Iterator[None]:
    """Ask a night that is going on to checkpoint and stop, before its server does."""
    try:
        yield
    finally:
        nights = multiprocessing.active_children()
        for night in nights:
            night.terminate()
        for night in nights:
            night.join(_CHECKPOINT_SECONDS)


@contextlib.contextmanager
def _server() -> Iterator[None]:
    named = PREFECT_API_URL.value()
    if named:
        if not _answers():
            raise ServerError(
                f"PREFECT_API_URL: no Prefect server answers at {named}; start it, or "
                "unset the variable to have one started"
            )
        print(f"schedules are kept by the Prefect server at {named}", flush=True)
        yield
        return
    port = _free_port()
    log = PREFECT_HOME.value() / "serve.log"
    with (
        temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}),
        _child(port, log) as child,
    ):
        _wait(child, log)
        print(
            f"schedules are kept by a Prefect server of our own, "
            f"http://127.0.0.1:{port} (its log: {log}); it stops with this process",
            flush=True,
        )
        yield


@contextlib.contextmanager
def _child(port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server on loopback that stops with this process, however it ends."""
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as sink:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=_LEASES | os.environ,
            # Nothing else tells a child that its parent was killed.
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - no threads of ours yet
            # A Ctrl-C is for us: the runner still has runs to report.
            start_new_session=True,
        )
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not _answers():
        if child.poll() is not None or time.monotonic() > deadline:
            raise ServerError(f"the Prefect server did not start; its log is {log}")
        time.sleep(0.2)


def _answers() -> bool:
    with get_client(sync_client=True) as client:
        return client.api_healthcheck() is None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
