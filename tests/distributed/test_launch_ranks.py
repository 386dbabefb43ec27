"""Several ranks on this host, through torchrun and through TorchDistributor in local mode."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.launch import RankError, launch
from sharding.errors import PlanError
from tests.support.jobs import told

pytestmark = pytest.mark.thorough

JOBS = "tests.support.jobs"
TIMEOUT_SECONDS = 40.0


def _launch(job: str, folder: Path, on: str, spark: Any = None) -> str:
    return launch(f"{JOBS}:{job}", folder, on=on, ranks=2, spark=spark, timeout_seconds=TIMEOUT_SECONDS)  # type: ignore[arg-type]


def _check_told(folder: Path) -> None:
    first, second = told(folder)
    assert first["total"] == second["total"] == 3.0
    assert [first["rank"], second["rank"]] == [0, 1]
    assert {first["local_world_size"], second["local_world_size"]} == {2}
    assert second["environment"] == {"RANK": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert first["threads"] == max(1, len(os.sched_getaffinity(0)) // 2)
    assert first["host"] == socket.gethostname()
    for number in (0, 1):
        log = (folder / "log" / f"rank_{number:05d}.txt").read_text()
        for text in (
            f"hello from python {number}",
            "hello from a descriptor",
            "hello from c",
            "hello from stderr",
        ):
            assert text in log


def test_torchrun_runs_the_job_on_every_rank(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    environment = dict(os.environ)
    assert _launch("tell", tmp_path, "torchrun") == "succeeded"
    _check_told(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert dict(os.environ) == environment


@pytest.mark.parametrize("on", ["torchrun", pytest.param("local", marks=pytest.mark.slow)])
def test_another_package_of_our_name_in_the_working_folder_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: str, request: pytest.FixtureRequest
) -> None:
    session = request.getfixturevalue("spark") if on == "local" else None
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "__init__.py").write_text("raise SystemExit('another package')")
    monkeypatch.chdir(tmp_path)
    assert _launch("tell", tmp_path / "run", on, session) == "succeeded"
    assert {values["folder"] for values in told(tmp_path / "run")} == {str(tmp_path)}


def test_torch_distributor_runs_the_job_on_every_rank(
    tmp_path: Path, spark: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    environment = dict(os.environ)
    capfd.readouterr()
    assert _launch("tell", tmp_path, "local", spark) == "succeeded"
    _check_told(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert "2 ranks, --on local" in (tmp_path / "log" / "driver.txt").read_text()
    assert dict(os.environ) == environment


def test_a_rank_that_fails_after_rank_0_has_finished_fails_the_launch(tmp_path: Path, spark: Any) -> None:
    # TorchDistributor alone returns rank 0's value here and says nothing.
    with pytest.raises(RankError, match=r"rank 1 of 2 on host .* failed: ValueError: late boom") as caught:
        _launch("fail_after_rank_0_has_finished", tmp_path, "local", spark)
    assert (caught.value.rank, caught.value.host) == (1, socket.gethostname())


def test_the_failing_rank_is_named_not_the_one_that_waited_for_it(tmp_path: Path) -> None:
    with pytest.raises(RankError, match=r"rank 1 of 2 on host .* failed: ValueError: boom") as caught:
        _launch("fail_with_value_error", tmp_path, "torchrun")
    assert not caught.value.lost
    assert "about to divide the batch" in caught.value.last_lines
    assert caught.value.last_lines[-1] == "ValueError: boom in the last rank"


@pytest.mark.slow
def test_one_user_error_of_all_ranks_is_one_user_error(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="the tables do not fit") as caught:
        _launch("fail_with_user_error", tmp_path, "torchrun")
    assert caught.value.fixes == ("--nodes 2",)


@pytest.mark.parametrize("on", ["torchrun", pytest.param("local", marks=pytest.mark.slow)])
def test_a_killed_rank_is_lost(tmp_path: Path, on: str, request: pytest.FixtureRequest) -> None:
    session = request.getfixturevalue("spark") if on == "local" else None
    with pytest.raises(RankError, match=r"rank 1 on host .* ended without a word: SIGKILL") as caught:
        _launch("kill_itself", tmp_path, on, session)
    assert (caught.value.lost, caught.value.lost_ranks) == (True, 1)
    assert caught.value.last_lines[-1] == "last words of the killed"


@pytest.mark.slow
@pytest.mark.parametrize("on", ["torchrun", "local"])
def test_a_rank_that_leaves_without_a_word_is_lost(
    tmp_path: Path, on: str, request: pytest.FixtureRequest
) -> None:
    session = request.getfixturevalue("spark") if on == "local" else None
    with pytest.raises(RankError, match=r"rank 1 on host .* ended without a word: it left with exit code 3"):
        _launch("exit_silently", tmp_path, on, session)


@pytest.mark.slow
def test_under_a_torchrun_of_the_user_this_process_is_a_rank(tmp_path: Path) -> None:
    done = _under_torchrun("tell", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["succeeded", "succeeded"]
    _check_told(tmp_path)


@pytest.mark.slow
def test_under_a_torchrun_of_the_user_a_failed_rank_fails_the_command(tmp_path: Path) -> None:
    done = _under_torchrun("fail_with_value_error", tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "rank 1 of 2 on host" in done.stderr
    assert "ValueError: boom in the last rank" in done.stderr


def _under_torchrun(job: str, folder: Path) -> subprocess.CompletedProcess[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    driver = ["--module", "tests.support.driver", "torchrun", job, "2", str(folder)]
    return subprocess.run(
        [*torchrun, *driver],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
