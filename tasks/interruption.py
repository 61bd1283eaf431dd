"""Turn SIGTERM and Ctrl-C into a flag, so that a stage can checkpoint and stop."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):  # noqa: N818 - it is a request, not an error
    """The process was asked to stop; the work is checkpointed and can be resumed."""


@contextlib.contextmanager
def watched() -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether the process has been asked to stop.

    A second signal has its usual effect at once. Outside the main thread signals
    cannot be watched, and the answer is always no.

    Raises:
        Interrupted: on leaving the block, if the process was asked and nobody looked.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    usual = {number: signal.getsignal(number) for number in _SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        asked.set()
        signal.signal(number, usual[signal.Signals(number)])

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield asked.is_set
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
    if asked.is_set():
        raise Interrupted("asked to stop")
