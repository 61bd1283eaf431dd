"""What Prefect logs of a stage that failed, less what the stage said itself."""

import contextlib
import logging
from collections.abc import Iterator

_LOGGER = "prefect.task_runs"
_REPEATED = "Task run failed with state"


@contextlib.contextmanager
def without_repeats() -> Iterator[None]:
    """Leave out lines that repeat a failed stage's own line.

    Prefect says of a task that returns a failed state that it failed, with the state
    spelt out and with the traceback of no exception, and a line later that it finished
    in this state. What a task raises keeps its line and its traceback.
    """
    logger = logging.getLogger(_LOGGER)
    logger.addFilter(_is_news)
    try:
        yield
    finally:
        logger.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_REPEATED)
