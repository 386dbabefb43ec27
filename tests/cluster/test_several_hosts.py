"""A cluster whose driver and two workers are hosts of their own: what one process computes, they compute."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import evaluate
from jobs.scoring.recommendation import recommend_lists
from sharding.plan import Plan
from tests.support.cluster import StandaloneCluster, standalone_cluster
from tests.support.host_runs import ONE_RANK_A_HOST, STEPS, HostRun, done, prepare_host_run
from tests.support.hosts import hosts
from tests.support.jobs import told
from tests.support.run_folders import losses

pytestmark = pytest.mark.cluster
USERS = "1,2,3,4,5"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandaloneCluster]:
    folder = tmp_path_factory.mktemp("hosts")
    with (
        hosts(folder, "driver", "worker-1", "worker-2") as made,
        standalone_cluster(folder, cores_per_worker=2, hosts=made) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def run(cluster: StandaloneCluster, tmp_path_factory: pytest.TempPathFactory) -> HostRun:
    made = prepare_host_run(cluster, tmp_path_factory.mktemp("run"))
    expected = losses(made.alone.path)
    assert len(expected) == STEPS
    assert expected[-1] < expected[0] - 0.01
    return made


def test_ranks_of_a_host_are_neighbours_and_know_their_place(
    cluster: StandaloneCluster, tmp_path: Path
) -> None:
    driver = cluster.driver("tell", ranks=4, run_folder=tmp_path)
    out, err = driver.communicate(timeout=300)
    assert out == "succeeded\n", err
    found = told(tmp_path)
    assert [values["total"] for values in found] == [10.0] * 4
    assert [values["local_rank"] for values in found] == [0, 1, 0, 1]
    assert {values["local_world_size"] for values in found} == {2}
    names = [values["host"] for values in found]
    assert names[0] == names[1] != names[2] == names[3]
    assert set(names) == {"worker-1", "worker-2"}
    # TorchDistributor says local rank 0 of 1 to each; these are what TorchRec reads.
    for rank, values in enumerate(found):
        expected = {"RANK": str(rank), "LOCAL_RANK": str(rank % 2), "LOCAL_WORLD_SIZE": "2"}
        assert values["environment"] == expected


def test_task_cpus_make_a_rank_of_several_cores(cluster: StandaloneCluster, tmp_path: Path) -> None:
    driver = cluster.driver("tell", ranks=2, run_folder=tmp_path, conf={"spark.task.cpus": "2"})
    out, err = driver.communicate(timeout=300)
    assert out == "succeeded\n", err
    assert {values["host"] for values in told(tmp_path)} == {"worker-1", "worker-2"}


def test_two_ranks_on_each_of_two_hosts_equal_one_process(
    cluster: StandaloneCluster, run: HostRun, tmp_path: Path
) -> None:
    on_spark = ("--on", "spark", "--master", cluster.url, "--ranks", 4, "--json")
    layout, place = tmp_path / "four.json", ("--data", run.data)
    done(cluster.shardrec(
        "plan", run.config, *place, "--cluster", "2x2xcpu", "--out", layout, "--json", cwd=run.folder
    ))  # fmt: skip
    out = tmp_path / "run"
    trained = cluster.shardrec(
        "train", run.config, *place, "--plan", layout, "--out", out, *on_spark, cwd=run.folder
    )
    assert done(trained)["steps"] == STEPS
    assert losses(out) == pytest.approx(losses(run.alone.path), abs=1e-6)
    plan = Plan.load(out / "plan.json")
    assert (plan.cluster.nodes, plan.cluster.local_world_size) == (2, 2)
    assert {table.sharding_type for table in plan.tables} == {"table_row_wise", "grid_shard"}
    evaluated = cluster.shardrec("evaluate", run.alone.path, *on_spark, cwd=run.folder)
    assert done(evaluated)["metrics"] == pytest.approx(evaluate(run.alone, "test").metrics, abs=1e-6)


def test_one_rank_on_each_of_two_hosts_equals_one_process(
    cluster: StandaloneCluster, run: HostRun, tmp_path: Path
) -> None:
    on_spark = ("--on", "spark", "--master", cluster.url, "--ranks", 2, "--json")
    trained = cluster.shardrec(
        "train", run.config, "--data", run.data, "--out", tmp_path, *on_spark,
        cwd=run.folder, conf=ONE_RANK_A_HOST,
    )  # fmt: skip
    assert done(trained)["steps"] == STEPS
    assert losses(tmp_path) == pytest.approx(losses(run.alone.path), abs=1e-6)
    assert Plan.load(tmp_path / "plan.json").cluster.nodes == 2
    scored = cluster.shardrec(
        "recommend", run.alone.path, "--users", USERS, *on_spark, cwd=run.folder, conf=ONE_RANK_A_HOST
    )
    expected, found = recommend_lists(run.alone, USERS.split(","), 10).as_json(), done(scored)
    assert _scores(found) == pytest.approx(_scores(expected), abs=1e-6)


def _scores(recommended: dict[str, Any]) -> dict[str, float]:
    return {
        f"{entry['user']} {item['item']}": item["score"]
        for entry in recommended["users"]
        for item in entry["items"]
    }
