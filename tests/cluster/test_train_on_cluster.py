"""The verbs against a real standalone cluster: what one process computes, two workers compute too."""

from __future__ import annotations

import json
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs import RunConfig, evaluate, train
from jobs.movielens import unpack_movielens_100k
from tests.support.cluster import REPOSITORY, StandaloneCluster, standalone_cluster
from tests.support.run_folders import losses

pytestmark = pytest.mark.cluster
CONFIG = REPOSITORY / "jobs" / "configs" / "tiny_local.yaml"
# The smoke test's 20 steps learn nothing yet, so its losses would agree whatever the ranks did.
STEEP = ("train.embedding_optimizer.learning_rate=0.2", "train.dense_optimizer.learning_rate=0.02")


@dataclass(frozen=True)
class Prepared:
    """A data set, prepared on the cluster, and a run on it in one process.

    Attributes:
        folder: working folder of the commands.
        config: of all runs.
        data: the data set.
        losses: of the run in one process, by step.
        metrics: of its test split, evaluated in one process.
    """

    folder: Path
    config: Path
    data: Path
    losses: list[float]
    metrics: dict[str, float]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandaloneCluster]:
    with standalone_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="module")
def prepared(cluster: StandaloneCluster, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared")
    config = folder / "config.yaml"
    run = RunConfig.load(CONFIG).override(*STEEP, f"data.root={unpack_movielens_100k(folder / 'raw')}")
    config.write_text(run.to_yaml())
    value = _done(cluster.shardrec("prepare", config, "--master", cluster.url, "--json", cwd=folder))
    assert sum(value["rows"].values()) == 100_000
    data = folder / value["dataset"]
    alone = train(run, data, out=folder / "alone", show_progress=False)
    expected = losses(folder / "alone")
    assert len(expected) == 20
    assert expected[-1] < expected[0]
    return Prepared(folder, config, data, expected, evaluate(alone, "test").metrics)


def _done(command: Any) -> dict[str, Any]:
    assert command.returncode == 0, command.stderr
    return dict(json.loads(command.stdout)) if command.stdout.startswith("{") else {}


def test_train_and_evaluate_commands_on_the_cluster_equal_one_process(
    cluster: StandaloneCluster, prepared: Prepared, tmp_path: Path
) -> None:
    on_spark = ("--on", "spark", "--master", cluster.url, "--ranks", 2, "--json")
    trained = cluster.shardrec(
        "train", prepared.config, "--data", prepared.data, "--out", tmp_path, *on_spark, cwd=prepared.folder
    )
    assert _done(trained)["steps"] == 20
    assert losses(tmp_path) == pytest.approx(prepared.losses, abs=1e-4)
    logs = [(tmp_path / "log" / f"rank_0000{number}.txt").read_text() for number in (0, 1)]
    assert all("of 2 on cpu" in log for log in logs)
    said = [line for line in re.split(r"[\r\n]+", trained.stderr) if line.strip()]
    assert all(re.search(r"Waiting for executors|step +\d+/20|%|evaluation|valid", line) for line in said), (
        said
    )
    evaluated = cluster.shardrec("evaluate", prepared.folder / "alone", *on_spark, cwd=prepared.folder)
    assert _done(evaluated)["metrics"] == pytest.approx(prepared.metrics, abs=1e-6)


def test_a_fresh_session_gives_a_rank_for_each_slot_that_registers(
    cluster: StandaloneCluster, prepared: Prepared, tmp_path: Path
) -> None:
    driver = (
        "-m",
        "tests.cluster.train_driver",
        cluster.url,
        prepared.config,
        prepared.data,
        tmp_path / "run",
    )
    value = _done(cluster.run(sys.executable, *driver, cwd=REPOSITORY))
    assert value["ranks"] == 2
    assert value["driver"] == "127.0.0.1"  # The way to this master; other masters are not on loopback.
    assert losses(tmp_path / "run") == pytest.approx(prepared.losses, abs=1e-4)
    assert value["metrics"] == pytest.approx(prepared.metrics, abs=1e-3)


def test_spark_submit_trains_on_every_slot(
    cluster: StandaloneCluster, prepared: Prepared, tmp_path: Path
) -> None:
    arguments = ("--on", "spark", "--data", prepared.data, "--out", tmp_path, "--json")
    submitted = cluster.spark_submit("train", prepared.config, *arguments, cwd=prepared.folder)
    assert submitted.returncode == 0, submitted.stdout[-3000:]
    # spark-submit prints what its program prints on stderr to stdout too; the result comes last.
    assert json.loads(submitted.stdout.splitlines()[-1])["steps"] == 20
    assert losses(tmp_path) == pytest.approx(prepared.losses, abs=1e-4)
    assert json.loads((tmp_path / "launch.json").read_text())["ranks"] == 2


def test_spark_submit_ends_with_the_exit_code_of_the_command(
    cluster: StandaloneCluster, prepared: Prepared, tmp_path: Path
) -> None:
    arguments = ("--on", "spark", "--data", tmp_path / "nowhere", "--ranks", 2)
    submitted = cluster.spark_submit("train", prepared.config, *arguments, cwd=prepared.folder)
    assert submitted.returncode == 2
    assert "nowhere" in submitted.stdout


def test_a_loss_that_is_not_finite_fails_the_command_with_rank_host_and_last_lines(
    cluster: StandaloneCluster, prepared: Prepared, tmp_path: Path
) -> None:
    much = ("--set", "train.dense_optimizer.learning_rate=1e30")
    on_spark = ("--on", "spark", "--master", cluster.url, "--ranks", 2)
    arguments = ("train", prepared.config, "--data", prepared.data, "--out", tmp_path, *much, *on_spark)
    failed = cluster.shardrec(*arguments, cwd=prepared.folder)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert re.search(rf"rank [01] of 2 on host {re.escape(socket.gethostname())} failed", failed.stderr)
    assert "the loss is not a finite number" in failed.stderr
    assert "last lines:" in failed.stderr
    assert "Py4JJavaError" not in failed.stderr


def test_a_part_file_damaged_after_the_checks_is_named(
    cluster: StandaloneCluster, prepared: Prepared, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared.data, data)
    damaged = sorted((data / "train").glob("*.parquet"))[0]
    content = bytearray(damaged.read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)  # The footer stays whole.
    damaged.write_bytes(content)
    on_spark = ("--on", "spark", "--master", cluster.url, "--ranks", 2, "--json")
    arguments = ("train", prepared.config, "--data", data, "--out", tmp_path / "run", *on_spark)
    failed = cluster.shardrec(*arguments, cwd=prepared.folder)
    assert failed.returncode == 2, failed.stderr
    error = json.loads(failed.stdout)
    assert damaged.name in error["where"]
    assert "Traceback" not in failed.stderr
