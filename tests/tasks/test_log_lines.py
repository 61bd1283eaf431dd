"""Lines of Prefect's that a failed stage makes needless."""

import logging

from tasks import log_lines


def test_a_failed_state_is_not_told_twice_but_an_exception_is(caplog):
    logger = logging.getLogger("prefect.task_runs")
    with caplog.at_level("INFO"), log_lines.without_repeats():
        logger.error("Task run failed with state: Failed(message='no rows')")
        logger.error("Task run failed with exception: KeyError('x')")
        logger.error("Finished in state Failed('no rows')")
    assert [record.getMessage() for record in caplog.records] == [
        "Task run failed with exception: KeyError('x')",
        "Finished in state Failed('no rows')",
    ]


def test_afterwards_all_is_told_again(caplog):
    with log_lines.without_repeats():
        pass
    with caplog.at_level("INFO"):
        logging.getLogger("prefect.task_runs").error("Task run failed with state: x")
    assert len(caplog.records) == 1
