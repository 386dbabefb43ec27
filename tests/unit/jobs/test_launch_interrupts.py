from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jobs.ranks.interrupts import StopRequest, checkpoint_on_interrupt, kill_ranks, request_stop
from jobs.ranks.status import Launch, RankStatus, process_table, stop_file

PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""
CHILD = """
import time
from jobs.ranks.interrupts import end_with_parent
end_with_parent()
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_interrupt_asks_for_a_checkpoint_and_the_second_ends(tmp_path: Path, number: int) -> None:
    before, said = signal.getsignal(number), io.StringIO()
    with checkpoint_on_interrupt(tmp_path, said):
        os.kill(os.getpid(), number)
        assert stop_file(tmp_path).read_text() == "checkpoint"
        assert "Press Ctrl-C again to stop at once" in said.getvalue()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_in_another_thread_signals_are_left_alone(tmp_path: Path) -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def run() -> None:
        with checkpoint_on_interrupt(tmp_path, io.StringIO()):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_rank_hears_of_the_stop_file(tmp_path: Path) -> None:
    stop = StopRequest(tmp_path, poll_seconds=0.0)
    assert not stop()
    request_stop(tmp_path)
    assert stop()


def test_a_rank_looks_for_the_stop_file_only_so_often(tmp_path: Path) -> None:
    stop = StopRequest(tmp_path, poll_seconds=3600.0)
    assert not stop()
    request_stop(tmp_path)
    assert not stop()
    assert StopRequest(tmp_path, poll_seconds=3600.0)()


def test_a_rank_takes_a_signal_as_a_request(tmp_path: Path) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        stop = StopRequest(tmp_path)
        stop.catch_signals()
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_only_running_ranks_of_this_host_are_killed(tmp_path: Path) -> None:
    import socket

    launch = Launch.begin(tmp_path, "a:b", "local", 4, "cpu", 5)
    sleepers = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(4)]
    try:
        here, table = socket.gethostname(), process_table()
        places = [
            ("running", here, table),
            ("succeeded", here, table),
            ("running", "elsewhere", table),
            ("running", here, "of a container with this host's name"),
        ]
        for number, (state, host, other) in enumerate(places):
            pid = sleepers[number].pid
            status = RankStatus(launch.attempt, number, number, host, pid, process_table=other)
            status.write(tmp_path, state=state)
        kill_ranks(tmp_path, launch)
        assert sleepers[0].wait(timeout=20) == -signal.SIGKILL
        assert [sleeper.poll() for sleeper in sleepers[1:]] == [None] * 3
        assert stop_file(tmp_path).read_text() == "now"
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()


def test_a_process_ends_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    # A pipe that only the child could still write to: reading ends when it is gone.
    descriptor = os.pidfd_open(child)
    try:
        parent.kill()
        parent.wait()
        import select

        ready, _, _ = select.select([descriptor], [], [], 20)
        assert ready
    finally:
        os.close(descriptor)
        parent.stdout.close()
