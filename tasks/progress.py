"""Progress: a bar on a terminal, a plain log line now and then elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from prefect.logging import get_run_logger
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

_LOG_SECONDS = 10.0


@contextlib.contextmanager
def shown(
    title: str, total: int, unit: str, start: int = 0
) -> Iterator[Callable[[int, str], None]]:
    """Give a function `(done, detail)` that shows how far a stage has come.

    `done` counts units out of `total`; `detail` is a short text with its own units.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(title, total=total, completed=start, detail="")
            yield lambda done, detail: bar.update(task, completed=done, detail=detail)
        return
    log = get_run_logger()
    began = last = time.monotonic()

    def line(done: int, detail: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _LOG_SECONDS:
            return
        last = now
        rate = (done - start) / (now - began)
        left = (total - done) / rate if rate else float("inf")
        log.info(
            "%s: %s of %s %s (%s/s), %.0f s left %s",
            title,
            f"{done:,}",
            f"{total:,}",
            unit,
            f"{rate:,.0f}",
            left,
            detail,
        )

    yield line
    sys.stderr.flush()
