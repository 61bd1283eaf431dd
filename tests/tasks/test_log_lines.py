"""Lines of Prefect's that a failed stage makes needless."""

import logging

from tasks import log_lines

STATE = "Task run failed with state: Failed(message='no rows')"
EXCEPTION = "Task run failed with exception: KeyError('x')"
FINISHED = "Finished in state Failed('no rows')"


def is_told(message):
    logger = logging.getLogger("prefect.task_runs")
    return bool(
        logger.filter(logging.makeLogRecord({"name": logger.name, "msg": message}))
    )


def test_a_failed_state_is_not_told_twice_but_an_exception_is():
    with log_lines.without_repeats():
        told = [is_told(message) for message in (STATE, EXCEPTION, FINISHED)]
    assert told == [False, True, True]


def test_afterwards_all_is_told_again():
    with log_lines.without_repeats():
        pass
    assert is_told(STATE)
