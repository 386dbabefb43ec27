"""Data sets prepared once for all end-to-end tests, and the command line in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs import Dataset, RunConfig, prepare
from jobs.movielens import unpack_movielens_100k
from tests.support.workers import turn

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "jobs" / "configs"
SHARED_DATA = ROOT.parent / "shared" / "data"


def shardrec(*arguments: object, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "jobs.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, **options)


def interrupted(
    *arguments: object, cwd: Path, when: Callable[[], object], seconds: float = 0.0
) -> tuple[int, str]:
    """Run the command line, press Ctrl-C so long after something is there; return exit code and stderr."""
    command = [sys.executable, "-m", "jobs.cli", *map(str, arguments)]
    with subprocess.Popen(
        command, cwd=cwd, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 120
        while not when() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    return process.returncode, said


@pytest.fixture(scope="session")
def movielens(spark: Any, workers_folder: Path) -> tuple[RunConfig, Dataset]:
    """MovieLens-100K prepared with the shipped DLRM config."""
    with turn(workers_folder, "movielens") as folder:
        run = RunConfig.load(CONFIGS / "movielens_100k_dlrm.yaml")
        run = run.override(f"data.root={unpack_movielens_100k(folder / 'raw')}")
        return run, _prepared(None, run, folder / "data")


@pytest.fixture(scope="session")
def criteo(spark: Any, workers_folder: Path) -> Dataset:
    """The 10,000-row Criteo sample prepared with the shipped DLRM config."""
    raw = SHARED_DATA / "criteo-10k" / "train_examples.txt"
    if not raw.exists():
        pytest.skip(f"the Criteo sample is not here: {raw}")
    with turn(workers_folder, "criteo") as folder:
        return _prepared(raw, RunConfig.load(CONFIGS / "criteo_dlrm.yaml"), folder / "data")


def _prepared(raw: Path | None, run: RunConfig, out: Path) -> Dataset:
    """Prepare a data set unless another worker has."""
    return Dataset.open(out) if out.exists() else prepare(raw, run, out)
