"""Interruption: the first signal is a request, and handlers come back afterwards."""

import os
import signal
import threading

import pytest

from tasks import interruption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_is_a_request_to_stop(number):
    with pytest.raises(interruption.Interrupted), interruption.watched() as asked:
        assert not asked()
        os.kill(os.getpid(), number)
        assert asked()


def test_signal_that_nobody_looked_for_is_not_lost():
    with pytest.raises(interruption.Interrupted), interruption.watched():
        os.kill(os.getpid(), signal.SIGTERM)


def test_second_signal_has_its_usual_effect():
    with pytest.raises(KeyboardInterrupt), interruption.watched() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_restored():
    before = signal.getsignal(signal.SIGTERM)
    with interruption.watched():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_other_threads_cannot_watch_and_are_never_asked():
    answers = []

    def work():
        with interruption.watched() as asked:
            answers.append(asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False]
