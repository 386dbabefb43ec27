"""`--on spark` against a real standalone cluster: a master and two workers with one slot each."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import StandaloneCluster, standalone_cluster
from tests.support.jobs import told

pytestmark = pytest.mark.cluster
SECONDS = 300.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandaloneCluster]:
    with standalone_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


def _run(
    cluster: StandaloneCluster, job: str, folder: Path, ranks: int = 2, conf: dict[str, str] | None = None
) -> tuple[int, str, str]:
    driver = cluster.driver(job, ranks=ranks, run_folder=folder, conf=conf)
    try:
        out, err = driver.communicate(timeout=SECONDS)
    finally:
        driver.kill()
    return driver.returncode, out, err


def _said(err: str) -> str:
    """Return what the driver said, without the lines with which every JVM starts."""
    noise = (
        "WARNING: Using incubator",
        "Setting default log level",
        "To adjust logging level",
        "Using Spark's default",
    )
    return "\n".join(line for line in err.splitlines() if not line.startswith(noise))


def test_two_ranks_run_on_two_workers_and_know_that_they_share_a_host(
    cluster: StandaloneCluster, tmp_path: Path
) -> None:
    code, out, err = _run(cluster, "tell", tmp_path)
    assert (code, out) == (0, "succeeded\n"), err
    first, second = told(tmp_path)
    assert first["total"] == second["total"] == 3.0
    # TorchDistributor says local rank 0 of 1 on both.
    assert [first["environment"]["LOCAL_RANK"], second["environment"]["LOCAL_RANK"]] == ["0", "1"]
    assert [first["local_world_size"], second["local_world_size"]] == [2, 2]
    assert first["threads"] == second["threads"] == max(1, len(os.sched_getaffinity(0)) // 2)
    # Executors work in <worker>/<application>/<executor>.
    assert {Path(values["folder"]).parts[-3] for values in (first, second)} == {"worker_0", "worker_1"}
    assert all(line.startswith("Waiting for executors") for line in _said(err).splitlines()), err
    assert "hello from c" in (tmp_path / "log" / "rank_00001.txt").read_text()


def test_the_failing_rank_is_named_with_host_and_last_lines(
    cluster: StandaloneCluster, tmp_path: Path
) -> None:
    code, out, err = _run(cluster, "fail_with_value_error", tmp_path)
    assert (code, out) == (1, "")
    said = _said(err)
    assert f"rank 1 of 2 on host {socket.gethostname()} failed: ValueError: boom in the last rank" in said
    assert "    about to divide the batch" in said
    assert "Py4JJavaError" not in said
    assert "at org.apache.spark" not in said


def test_a_user_error_on_the_ranks_is_a_user_error_of_the_command(
    cluster: StandaloneCluster, tmp_path: Path
) -> None:
    code, out, err = _run(cluster, "fail_with_user_error", tmp_path)
    assert (code, out) == (2, "")
    assert _said(err).count("the tables do not fit") == 1


def test_a_killed_rank_is_lost_and_the_job_does_not_hang(cluster: StandaloneCluster, tmp_path: Path) -> None:
    code, _, err = _run(cluster, "kill_itself", tmp_path)
    assert code == 1
    assert re.search(r"rank 1 on host .* ended without a word", err)
    assert "last words of the killed" in err


def test_more_ranks_than_slots_are_refused_with_the_number_that_fits(
    cluster: StandaloneCluster, tmp_path: Path
) -> None:
    code, out, err = _run(cluster, "tell", tmp_path, ranks=3, conf={"spark.cores.max": "2"})
    assert (code, out) == (2, "")
    assert "got:     3 ranks, 2 slots" in err
    assert "1) --ranks 2" in err


def test_dynamic_allocation_is_refused_by_name(cluster: StandaloneCluster, tmp_path: Path) -> None:
    conf = {
        "spark.dynamicAllocation.enabled": "true",
        "spark.dynamicAllocation.shuffleTracking.enabled": "true",
    }
    code, _, err = _run(cluster, "tell", tmp_path, conf=conf)
    assert code == 2
    assert "where:   spark.dynamicAllocation.enabled" in err


def test_ctrl_c_lets_the_ranks_on_the_cluster_save_and_stop(
    cluster: StandaloneCluster, tmp_path: Path
) -> None:
    driver = cluster.driver("until_stopped", ranks=2, run_folder=tmp_path)
    try:
        _await_ranks(tmp_path)
        os.killpg(driver.pid, signal.SIGINT)
        out, err = driver.communicate(timeout=SECONDS)
    finally:
        driver.kill()
    assert (driver.returncode, out) == (0, "stopped\n"), err
    assert [(tmp_path / f"checkpoint_{rank}").read_text() for rank in (0, 1)] == ["whole", "whole"]


@pytest.mark.parametrize("how", ["second Ctrl-C", "kill -9"])
def test_ranks_on_the_cluster_end_with_the_driver(
    cluster: StandaloneCluster, tmp_path: Path, how: str
) -> None:
    driver = cluster.driver("step_for_ever", ranks=2, run_folder=tmp_path)
    try:
        waiting = set(_await_ranks(tmp_path))
        if how == "kill -9":
            os.killpg(driver.pid, signal.SIGKILL)
        else:
            os.killpg(driver.pid, signal.SIGINT)
            _await_file(tmp_path / "STOP")
            os.killpg(driver.pid, signal.SIGINT)
        deadline = time.monotonic() + SECONDS
        while waiting and time.monotonic() < deadline:
            for descriptor in select.select(list(waiting), [], [], 1.0)[0]:
                waiting.discard(descriptor)
                os.close(descriptor)
        assert not waiting
        driver.communicate(timeout=SECONDS)
    finally:
        driver.kill()
    assert driver.returncode == (-signal.SIGKILL if how == "kill -9" else 130)


def _await_ranks(folder: Path) -> list[int]:
    deadline = time.monotonic() + SECONDS
    while not (folder / "out").exists() or len(told(folder)) < 2:
        assert time.monotonic() < deadline, "the ranks never started"
        time.sleep(0.2)
    return [os.pidfd_open(values["pid"]) for values in told(folder)]


def _await_file(path: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.1)
