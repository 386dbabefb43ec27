"""Lines on stderr while `prepare` works, and one kind of end for every Ctrl-C."""

from __future__ import annotations

import logging
import os
import re
import signal

import pytest

from jobs.attended import PHASES, interrupts_waiting, phases_on_stderr, stopping_at_once


def test_phases_are_shown_with_the_seconds_and_only_while_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with phases_on_stderr():
        # A name that only this test uses: other tests run programs that disable the loggers that are there.
        logging.getLogger("jobs.preparation.attended_test").info("fitting vocabularies")
    PHASES.info("nobody listens")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(r"\[ +\d+\.\d s\] fitting vocabularies\n", shown.err)


@pytest.mark.usefixtures("python_handles_sigint")
def test_an_error_right_after_the_interrupt_counts_as_the_interrupt(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            logging.exception("KeyboardInterrupt while sending command.")  # as py4j does
            raise ValueError("an error of py4j") from None

    with pytest.raises(KeyboardInterrupt), stopping_at_once():
        work()
    assert signal.getsignal(signal.SIGINT) is before
    assert capsys.readouterr().err == ""
    logging.getLogger("after").error("heard again")
    assert logging.getLogger("after").isEnabledFor(logging.ERROR)


@pytest.mark.usefixtures("python_handles_sigint")
def test_an_error_without_an_interrupt_stays_itself() -> None:
    with pytest.raises(ValueError, match="as it is"), stopping_at_once():
        raise ValueError("as it is")


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping_at_once():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_starting_spark_keeps_a_handler_that_is_there_already() -> None:
    def mine(*_: object) -> None:
        """Take the signal."""

    def spark(*_: object) -> None:
        """Take it from there."""

    before = signal.signal(signal.SIGINT, mine)
    try:
        with interrupts_waiting():
            signal.signal(signal.SIGINT, spark)
        assert signal.getsignal(signal.SIGINT) is mine
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with interrupts_waiting():
            signal.signal(signal.SIGINT, spark)
        assert signal.getsignal(signal.SIGINT) is spark
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_handles_sigint")
def test_an_interrupt_waits_until_spark_has_started_and_a_second_one_does_not() -> None:
    before = signal.getsignal(signal.SIGINT)
    reached = []

    def start(interrupts: int) -> None:
        with interrupts_waiting():
            for number in range(interrupts):
                os.kill(os.getpid(), signal.SIGINT)
                reached.append(number)

    with pytest.raises(KeyboardInterrupt):
        start(1)
    assert reached == [0]
    with pytest.raises(KeyboardInterrupt):
        start(3)
    assert reached == [0, 0]

    def start_again() -> None:
        with interrupts_waiting() as wait_again:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # as Spark puts its own
            wait_again()
            os.kill(os.getpid(), signal.SIGINT)
            reached.append(9)

    with pytest.raises(KeyboardInterrupt):
        start_again()
    assert reached == [0, 0, 9]
    assert signal.signal(signal.SIGINT, before) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is before
