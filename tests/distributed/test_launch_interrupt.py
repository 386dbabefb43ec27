"""Ctrl-C and the death of the driver, with the driver in a process group of its own, as at a terminal."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.jobs import told

SLOW_MODES = [pytest.param(mode, marks=pytest.mark.slow) for mode in ("torchrun", "local")]
MODES = ["torchrun", SLOW_MODES[1]]
START_SECONDS = 240.0
END_SECONDS = 120.0


@contextmanager
def _driver(on: str, job: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    ranks = "1" if on == "process" else "2"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.driver", on, job, ranks, str(folder)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _until(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def _rank_descriptors(folder: Path, ranks: int) -> list[int]:
    """Wait until the job runs on every rank, and return descriptors that become readable as ranks end."""
    _until(lambda: (folder / "out").exists() and len(told(folder)) == ranks, START_SECONDS)
    return [os.pidfd_open(values["pid"]) for values in told(folder)]


def _all_end(descriptors: list[int]) -> bool:
    deadline = time.monotonic() + END_SECONDS
    waiting = set(descriptors)
    while waiting and time.monotonic() < deadline:
        ready, _, _ = select.select(list(waiting), [], [], 1.0)
        waiting -= set(ready)
    for descriptor in descriptors:
        os.close(descriptor)
    return not waiting


@pytest.mark.parametrize("on", ["process", *MODES])
def test_the_first_ctrl_c_lets_every_rank_save_and_stop(tmp_path: Path, on: str) -> None:
    ranks = 1 if on == "process" else 2
    with _driver(on, "until_stopped", tmp_path) as driver:
        descriptors = _rank_descriptors(tmp_path, ranks)
        os.killpg(driver.pid, signal.SIGINT)  # A terminal sends it to the whole group.
        out, err = driver.communicate(timeout=END_SECONDS)
    assert _all_end(descriptors)
    assert driver.returncode == 0, err
    assert out == "stopped\n"
    assert "Press Ctrl-C again to stop at once" in err
    assert [(tmp_path / f"checkpoint_{rank}").read_text() for rank in range(ranks)] == ["whole"] * ranks


@pytest.mark.parametrize("on", ["process", *SLOW_MODES])
def test_the_second_ctrl_c_ends_everything_at_once(tmp_path: Path, on: str) -> None:
    with _driver(on, "step_for_ever", tmp_path) as driver:
        descriptors = _rank_descriptors(tmp_path, 1 if on == "process" else 2)
        os.killpg(driver.pid, signal.SIGINT)
        _until((tmp_path / "STOP").exists, END_SECONDS)
        os.killpg(driver.pid, signal.SIGINT)
        out, err = driver.communicate(timeout=END_SECONDS)
    assert _all_end(descriptors)
    assert driver.returncode == 130, err
    assert out == ""


@pytest.mark.parametrize("on", MODES)
def test_ranks_do_not_outlive_a_killed_driver(tmp_path: Path, on: str) -> None:
    with _driver(on, "step_for_ever", tmp_path) as driver:
        descriptors = _rank_descriptors(tmp_path, 2)
        driver.kill()
        assert _all_end(descriptors)
