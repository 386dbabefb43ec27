"""Spark tasks with two GPUs each, on a cluster that believes to have four; the ranks compute on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyspark
import pytest
import torch

from tests.support.cluster import StandaloneCluster, standalone_cluster
from tests.support.jobs import told

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(torch.cuda.is_available(), reason="ranks would look for the pretended GPUs"),
]
TWO_GPUS = {"spark.executor.resource.gpu.amount": "2", "spark.task.resource.gpu.amount": "2"}
SEVERAL_A_TASK = tuple(int(part) for part in pyspark.__version__.split(".")[:2]) >= (4, 2)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandaloneCluster]:
    folder = tmp_path_factory.mktemp("gpus")
    script, settings = folder / "discover.sh", folder / "worker.conf"
    script.write_text("""#!/bin/sh\necho '{"name": "gpu", "addresses": ["0", "1"]}'\n""")
    script.chmod(0o755)
    resource = "spark.worker.resource.gpu"
    settings.write_text(f"{resource}.amount 2\n{resource}.discoveryScript {script}\n")
    with standalone_cluster(folder, worker_options=["--properties-file", str(settings)]) as running:
        yield running


def _run(cluster: StandaloneCluster, ranks: int, folder: Path) -> tuple[int, str, str]:
    driver = cluster.driver("tell", ranks=ranks, run_folder=folder, conf=TWO_GPUS)
    try:
        out, err = driver.communicate(timeout=300)
    finally:
        driver.kill()
    return driver.returncode, out, err


@pytest.mark.skipif(not SEVERAL_A_TASK, reason="pyspark before 4.2 starts one rank in each task")
def test_each_task_starts_a_rank_for_each_of_its_gpus(cluster: StandaloneCluster, tmp_path: Path) -> None:
    code, out, err = _run(cluster, 4, tmp_path)
    assert (code, out) == (0, "succeeded\n"), err
    found = told(tmp_path)
    assert [values["total"] for values in found] == [10.0] * 4
    assert len({values["folder"] for values in found}) == 2  # Two tasks in two executors.
    # TorchDistributor says local ranks 0 and 1 of 2 in each task; the host has four.
    assert [values["environment"]["LOCAL_RANK"] for values in found] == ["0", "1", "2", "3"]
    assert {values["local_world_size"] for values in found} == {4}


@pytest.mark.skipif(not SEVERAL_A_TASK, reason="pyspark before 4.2 starts one rank in each task")
def test_ranks_that_do_not_fill_the_tasks_are_refused(cluster: StandaloneCluster, tmp_path: Path) -> None:
    code, _, err = _run(cluster, 3, tmp_path)
    assert code == 2
    assert "each Spark task starts 2 ranks" in err


@pytest.mark.skipif(SEVERAL_A_TASK, reason="pyspark from 4.2 on starts a rank for each GPU")
def test_several_gpus_a_task_are_refused_where_spark_would_wait_for_ever(
    cluster: StandaloneCluster, tmp_path: Path
) -> None:
    code, out, err = _run(cluster, 4, tmp_path)
    assert (code, out) == (2, "")
    assert "where:   spark.task.resource.gpu.amount" in err
    assert not (tmp_path / "out").exists()
