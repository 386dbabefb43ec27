"""`--on process`: one rank inside this very process."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch.distributed as dist

from jobs.launch import RankError, launch
from jobs.progress import progress_bar
from jobs.ranks.status import Launch, read_statuses
from sharding.errors import PlanError, UserError
from sharding.hosts import RankContext
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


def interrupt_itself(run_folder: Path, context: RankContext) -> None:
    """Be told to stop in the midst of work."""
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)


def test_a_job_that_saves_nothing_ends_at_the_first_ctrl_c(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            launch(f"{__name__}:interrupt_itself", tmp_path, on="process", saves=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert capfd.readouterr() == ("", "")


def warn(run_folder: Path, context: RankContext) -> None:
    """Say what dependencies say, and something else."""
    for text in (
        "Please use DTensor instead and we are deprecating ShardedTensor.",
        "`torch.distributed.all_gather_into_tensor` is deprecated. Please use another.",
        "`torch.jit.script` is deprecated. Please switch.",
        "the disk is nearly full",
    ):
        warnings.warn(text, FutureWarning, stacklevel=1)


def test_known_warnings_of_dependencies_are_left_out_and_others_come_through(tmp_path: Path) -> None:
    filters = list(warnings.filters)
    with pytest.warns(FutureWarning) as caught:
        launch(f"{__name__}:warn", tmp_path, on="process")
    assert [str(warning.message) for warning in caught] == ["the disk is nearly full"]
    assert warnings.filters == filters
