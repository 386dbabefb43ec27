"""`--on process`: one rank inside this very process."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from jobs.launch import RankError, launch
from jobs.progress import progress_bar
from jobs.ranks.status import Launch, read_statuses
from sharding.errors import PlanError, UserError
from tests.support.jobs import told

JOBS = "tests.support.jobs"


def test_the_job_runs_here_and_leaves_nothing_behind(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    environment = dict(os.environ)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert launch(f"{JOBS}:tell", tmp_path, on="process") == "succeeded"
    (values,) = told(tmp_path)
    assert values["pid"] == os.getpid()
    assert (values["world_size"], values["local_world_size"], values["total"]) == (1, 1, 1.0)
    assert values["environment"] == {"RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    assert not dist.is_initialized()
    assert dict(os.environ) == environment
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert capfd.readouterr() == ("", "")


def test_what_the_rank_prints_is_in_its_log(tmp_path: Path) -> None:
    launch(f"{JOBS}:tell", tmp_path, on="process")
    log = (tmp_path / "log" / "rank_00000.txt").read_text()
    for text in ("hello from python 0", "hello from a descriptor", "hello from c", "hello from stderr"):
        assert text in log


def test_it_needs_neither_spark_nor_java(tmp_path: Path) -> None:
    code = (
        "import sys; from jobs.launch import launch\n"
        f"launch('{JOBS}:tell', sys.argv[1], on='process')\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('pyspark', 'py4j')]\n"
    )
    environment = os.environ | {"PATH": "/nowhere", "JAVA_HOME": "/nowhere"}
    subprocess.run([sys.executable, "-c", code, tmp_path], env=environment, check=True, timeout=120)


def test_a_user_error_comes_back_as_the_very_error(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="the tables do not fit") as caught:
        launch(f"{JOBS}:fail_with_user_error", tmp_path, on="process")
    assert caught.value.allowed == ["a", "b"]


def test_any_other_error_names_the_rank_and_keeps_its_cause(tmp_path: Path) -> None:
    with pytest.raises(RankError, match="ValueError: boom in the last rank") as caught:
        launch(f"{JOBS}:fail_with_value_error", tmp_path, on="process")
    assert isinstance(caught.value.__cause__, ValueError)
    assert (caught.value.rank, caught.value.lost) == (0, False)
    assert "about to divide the batch" in caught.value.last_lines
    assert not dist.is_initialized()


def test_a_failed_launch_does_not_spoil_the_next(tmp_path: Path) -> None:
    with pytest.raises(RankError):
        launch(f"{JOBS}:fail_with_value_error", tmp_path, on="process")
    assert launch(f"{JOBS}:tell", tmp_path, on="process") == "succeeded"
    (status,) = read_statuses(tmp_path, Launch.load(tmp_path)).values()
    assert status.state == "succeeded"


def test_a_job_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(RankError, match="no attribute 'missing'"):
        launch(f"{JOBS}:missing", tmp_path, on="process")


def test_one_process_is_one_rank(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one process is one rank") as caught:
        launch(f"{JOBS}:tell", tmp_path, on="process", ranks=2)
    assert caught.value.fixes == ("--on local --ranks 2",)


def test_a_process_group_of_the_user_is_not_touched(tmp_path: Path) -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(UserError, match="belongs to a process group already"):
            launch(f"{JOBS}:tell", tmp_path, on="process")
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()


def test_progress_is_shown_while_output_is_captured(tmp_path: Path) -> None:
    said = io.StringIO()
    with progress_bar(tmp_path, stream=said):
        launch(f"{JOBS}:write_metrics", tmp_path, on="process")
    assert "step 20/20 (100%), 1,234 samples/s, loss 0.5000" in said.getvalue()
    assert "step 20, validation: auc 0.7500" in said.getvalue()
