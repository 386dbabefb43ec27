"""What a person at the terminal gets: lines while `prepare` works, and a Ctrl-C that ends a verb."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

PHASES = logging.getLogger("jobs.preparation")
"""Takes a line at INFO wherever a phase of the preparation begins."""

_CANCEL_SECONDS = 3.0


@contextmanager
def phases_on_stderr() -> Iterator[None]:
    """Show what `PHASES` is told on stderr, each line with the seconds since the start."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Elapsed())
    level, propagate = PHASES.level, PHASES.propagate
    PHASES.addHandler(handler)
    PHASES.setLevel(logging.INFO)
    PHASES.propagate = False  # A root logger that somebody set up would show each line again.
    try:
        yield
    finally:
        PHASES.removeHandler(handler)
        PHASES.setLevel(level)
        PHASES.propagate = propagate


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Make one KeyboardInterrupt of a Ctrl-C while Spark works, whatever py4j and Spark make of it.

    Spark's own handler asks the JVM to cancel its jobs on the very connection whose answer is awaited, so
    that either the interrupt or an error of py4j comes out, and py4j logs a traceback to the root logger.
    """
    previous = signal.getsignal(signal.SIGINT)
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or previous is not signal.default_int_handler:
        yield  # Somebody else decides, or nobody can: signals are ignored, as under `nohup`.
        return
    interrupt = _Interrupt()
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except Exception as error:
        if interrupt.came:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
        if interrupt.came:
            logging.disable(interrupt.disabled)


@contextmanager
def interrupts_waiting() -> Iterator[Callable[[], None]]:
    """Let a Ctrl-C wait until Spark has started, and leave it to a program that handles it already.

    PySpark that is interrupted while the JVM starts leaves it behind for ever; a second Ctrl-C does not wait.
    What is yielded makes a Ctrl-C wait again after somebody has put another handler in place.
    """
    handler = last = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler is None:
        yield lambda: None
        return
    came: list[tuple[int, FrameType | None]] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append((number, frame))
        if len(came) > 1 and callable(handler):
            handler(number, frame)

    def wait() -> None:
        nonlocal last
        found = signal.signal(signal.SIGINT, note if callable(handler) else handler)
        last = last if found is note else found

    wait()
    try:
        yield wait
    finally:
        wait()
        signal.signal(signal.SIGINT, last if handler is signal.default_int_handler else handler)
        if came and callable(handler):
            handler(*came[0])


class _Interrupt:
    """The handler of SIGINT."""

    def __init__(self) -> None:
        self.came = False
        self.disabled = logging.NOTSET

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        if not self.came:
            self.came = True
            self.disabled = logging.root.manager.disable
            logging.disable(logging.CRITICAL)
            _cancel_jobs()
        raise KeyboardInterrupt


def _cancel_jobs() -> None:
    """Cancel Spark's jobs, or they would write on into a folder that is being deleted, and silence Spark."""
    # In a thread, which has its own connection to the JVM.
    thread = threading.Thread(target=_cancel_all, name="shardrec-cancel", daemon=True)
    thread.start()
    thread.join(_CANCEL_SECONDS)


def _cancel_all() -> None:
    context = getattr(sys.modules.get("pyspark"), "SparkContext", None)
    active = getattr(context, "_active_spark_context", None)
    if active is None:
        return
    with suppress(Exception):  # The JVM may be on its way out; the process ends either way.
        active.setLogLevel("OFF")  # It would tell of the Python that it misses.
        active.cancelAllJobs()


class _Elapsed(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(message)s")
        self._start = time.time()

    def format(self, record: logging.LogRecord) -> str:
        return f"[{record.created - self._start:6.1f} s] {super().format(record)}"
