"""Prefect's temporary server, out of reach of Ctrl-C in a terminal."""

import signal

from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_EPHEMERAL_ENABLED


def start() -> None:
    """Start it if Prefect would: it has no other server, and may start one.

    A terminal sends Ctrl-C to the server as well. That would be gone first, and a run
    that stops waits minutes for it to hear how it ended. A process inherits which
    signals are blocked, and this one is stopped by another when the run has ended.
    """
    if PREFECT_API_URL.value() or not PREFECT_SERVER_EPHEMERAL_ENABLED.value():
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        SubprocessASGIServer().start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
