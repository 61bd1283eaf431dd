"""Forks of a test's own process: what is imported once can be killed many times."""

import os
import sys
from collections.abc import Callable


def fork(work: Callable[[], None]) -> int:
    """Do the work in a fork, in a process group of its own; return its id."""
    runner = os.fork()
    if runner:
        return runner
    os.setpgid(0, 0)
    try:
        work()
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def has_ended(runner: int) -> bool:
    """Return whether a fork has ended; its exit status stays to be waited for."""
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, runner, options) is not None


def wait(runner: int) -> int:
    """Return the exit status of a fork, once it has ended; minus a signal's number."""
    return os.waitstatus_to_exitcode(os.waitpid(runner, 0)[1])
