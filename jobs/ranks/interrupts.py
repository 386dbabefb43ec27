"""Stopping: Ctrl-C in the driver, signals and the stop file in the ranks, and the end of the parent."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TextIO

from jobs.ranks.status import Launch, process_table, read_statuses, stop_file

_POLL_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1
_STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def checkpoint_on_interrupt(run_folder: Path, stream: TextIO) -> Iterator[None]:
    """Let the first Ctrl-C (or SIGTERM) ask the ranks for a checkpoint, and the second one end everything.

    Signals can only be caught in the main thread; in another one this does nothing.

    Args:
        run_folder: where the stop file is put.
        stream: where the person is told.
    """

    def ask(_number: int, _frame: FrameType | None) -> None:
        if stop_file(run_folder).exists():
            raise KeyboardInterrupt
        request_stop(run_folder)
        stream.write("\nStopping: a checkpoint is being saved. Press Ctrl-C again to stop at once.\n")
        stream.flush()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, ask) for number in _STOPPING}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def request_stop(run_folder: Path, *, now: bool = False) -> None:
    """Ask the ranks to save a checkpoint and stop, or to end at once."""
    stop_file(run_folder).write_text("now" if now else "checkpoint", encoding="utf-8")


def kill_ranks(run_folder: Path, launch: Launch) -> None:
    """End the ranks at once: those of this host by signal, others when they next look at the stop file."""
    with suppress(OSError):
        request_stop(run_folder, now=True)
    here = (socket.gethostname(), process_table())
    for status in read_statuses(run_folder, launch).values():
        if not status.ended and (status.host, status.process_table) == here and status.pid != os.getpid():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(status.pid, signal.SIGKILL)


class StopRequest:
    """Tells a rank whether it should save a checkpoint and stop.

    Args:
        run_folder: where the stop file may appear.
        poll_seconds: how long to wait between two looks for the file, which may lie on slow shared storage.
    """

    def __init__(self, run_folder: Path, poll_seconds: float = _POLL_SECONDS) -> None:
        self._file, self._poll_seconds = stop_file(run_folder), poll_seconds
        self._asked = False
        self._next_look = 0.0

    def __call__(self) -> bool:
        """Return whether a signal came or the stop file is there."""
        now = time.monotonic()
        if not self._asked and now >= self._next_look:
            self._next_look = now + self._poll_seconds
            self._asked = self._file.exists()
        return self._asked

    def catch_signals(self) -> None:
        """Take SIGINT and SIGTERM as a request, so that the step in hand is finished."""
        if threading.current_thread() is threading.main_thread():
            for number in _STOPPING:
                signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True


def end_with_parent(parent: int | None = None) -> None:
    """End this process as soon as its parent process is gone, however that died.

    Linux does it by itself; elsewhere a thread looks once a second.

    Args:
        parent: process id of the parent, where it is known; it may have died already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    expected = os.getppid() if parent is None else parent
    _watch(lambda: os.getppid() != expected)


def end_when_replaced(run_folder: Path, launch: Launch) -> None:
    """End this process when a newer launch has taken the run folder over, or the driver says `now`."""

    def replaced() -> bool:
        try:
            if stop_file(run_folder).read_text(encoding="utf-8") == "now":
                return True
        except OSError:
            pass
        try:
            return Launch.load(run_folder).attempt != launch.attempt
        except (OSError, ValueError, TypeError):
            return False

    _watch(replaced)


def _watch(over: Callable[[], bool]) -> None:
    def look() -> None:
        while not over():
            time.sleep(_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=look, name="shardrec-watch", daemon=True).start()
