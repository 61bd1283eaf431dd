"""Progress: a bar on a terminal, a plain line now and then elsewhere."""

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
    title: str,
    total: int,
    unit: str,
    start: int = 0,
    *,
    say: Callable[[str], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[int, str], None]]:
    """Give a function `(done, detail)` that shows how far a stage has come.

    `done` counts units out of `total`, `start` of them from before; `detail` is a short
    text with its own units. Both forms tell the rate since the start and the time left.
    Plain lines go to `say`, or to the run's log, which there is in flows alone.
    """
    console = Console(stderr=True)
    began = last = clock()

    def rate(done: int) -> float:
        return (done - start) / max(clock() - began, 1e-9)

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

            def draw(done: int, detail: str) -> None:
                text = f"({rate(done):,.0f}/s) {detail}"
                bar.update(task, completed=done, detail=text)

            yield draw
        return
    tell = say or get_run_logger().info

    def line(done: int, detail: str) -> None:
        nonlocal last
        now = clock()
        if now - last < _LOG_SECONDS:
            return
        last = now
        pace = rate(done)
        left = (total - done) / pace if pace else float("inf")
        tell(
            f"{title}: {done:,} of {total:,} {unit} ({pace:,.0f}/s), {left:.0f} s left"
            + (f", {detail}" if detail else "")
        )

    yield line
    sys.stderr.flush()
