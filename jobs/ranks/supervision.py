"""Runs what starts the ranks in a thread of its own, and sees to it that it ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jobs.ranks.interrupts import kill_ranks
from jobs.ranks.status import Launch, driver_log, read_statuses
from jobs.ranks.streams import captured_output

_POLL_SECONDS = 0.2
_LOOK_EVERY_SECONDS = 2.0
# torchrun gives the other ranks 30 s after one has failed.
_GRACE_SECONDS = 45.0


def supervised(
    start: Callable[[], None], run_folder: Path, launch: Launch, cancel: Callable[[], None]
) -> BaseException | None:
    """Run a starter to its end and return what it raised.

    The starter's child processes never get the terminal's SIGINT, which would kill ranks in mid-step; what
    they and the starter print goes to `log/driver.txt`. When a rank has failed, or all have ended, and the
    starter does not come back, the ranks are ended.

    Args:
        start: starts the ranks and waits for them.
        run_folder: the run folder.
        launch: the launch.
        cancel: ends what `start` waits for, besides the ranks.

    Raises:
        KeyboardInterrupt: Ctrl-C came twice; the ranks are ended.
    """
    raised: list[BaseException] = []

    def run() -> None:
        try:
            start()
        except BaseException as error:  # Whatever it is, the statuses of the ranks tell more.
            raised.append(error)

    thread = threading.Thread(target=run, name="shardrec-launch", daemon=True)
    with captured_output(driver_log(run_folder)):
        print(f"attempt {launch.attempt}: {launch.ranks} ranks, --on {launch.mode}")  # noqa: T201
        try:
            with _interrupts_blocked_in_children():
                thread.start()
            _wait(thread, run_folder, launch, cancel)
        except KeyboardInterrupt:
            _end(thread, run_folder, launch, cancel)
            raise
    return raised[0] if raised else None


def _wait(thread: threading.Thread, run_folder: Path, launch: Launch, cancel: Callable[[], None]) -> None:
    over_since: float | None = None
    next_look = 0.0
    while thread.is_alive():
        thread.join(_POLL_SECONDS)
        now = time.monotonic()
        if now < next_look:
            continue
        next_look = now + _LOOK_EVERY_SECONDS
        if over_since is None and _should_be_over(run_folder, launch):
            over_since = now
        if over_since is not None and now - over_since > launch.timeout_seconds + _GRACE_SECONDS:
            _end(thread, run_folder, launch, cancel)
            return


def _should_be_over(run_folder: Path, launch: Launch) -> bool:
    statuses = read_statuses(run_folder, launch).values()
    failed = any(status.state == "failed" for status in statuses)
    return failed or sum(status.ended for status in statuses) == launch.ranks


def _end(thread: threading.Thread, run_folder: Path, launch: Launch, cancel: Callable[[], None]) -> None:
    kill_ranks(run_folder, launch)
    with suppress(Exception):  # The ranks are told already; this only shortens the wait.
        cancel()
    # What stands between us and the ranks would print its farewell when our streams are the person's again.
    for process in _children(thread):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    thread.join(15.0)


def _children(thread: threading.Thread) -> list[int]:
    """Return the processes that a thread has started and that are still there; Linux knows."""
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{thread.native_id}/children").read_text().split()]
    except OSError:
        return []


@contextmanager
def _interrupts_blocked_in_children() -> Iterator[None]:
    """Start a thread in here and it, with all processes that it starts, never receives SIGINT."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
