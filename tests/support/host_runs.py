"""A small run for the tests of several hosts: 4,000 ratings, tables that are split over hosts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs import RunConfig, TrainResult, train
from tests.support.cluster import StandaloneCluster

STEPS = 12
# With these, standalone clusters deal one slot to each host.
ONE_RANK_A_HOST = {"spark.executor.cores": "1", "spark.cores.max": "2"}
_BY_HOST = {
    "user_id": {"sharding_types": ["table_row_wise"]},
    "movie_id": {"sharding_types": ["grid_shard"], "min_partition": 4},
}
_CONFIG: dict[str, Any] = {
    "name": "hosts",
    "data": {
        "source": {"path": "ratings.parquet"},
        "label": {"column": "rating", "positive_at_least": 4},
        "num_lanes": 4,
    },
    "features": {
        "dense": [{"columns": ["age"]}],
        "sparse": [{"columns": ["user_id", "movie_id"], "ops": ["vocabulary"]}],
    },
    "model": {"name": "dlrm", "embedding_dim": 8},
    "train": {
        "global_batch_size": 64,
        "max_steps": STEPS,
        "log_every_steps": 1,
        "checkpoint_every_steps": 4,
        # Adagrad of whole rows would differ under a grid: each part of a row has its own mean.
        "embedding_optimizer": {"name": "adagrad", "learning_rate": 0.1},
    },
    "recommend": {"user": "user_id", "item": "movie_id", "user_columns": ["age"]},
}


@dataclass(frozen=True)
class HostRun:
    """A data set that the cluster has prepared, and the same run in one process.

    Attributes:
        folder: working folder of the commands.
        config: file with the tables split over hosts.
        data: the data set.
        alone: the run in one process.
    """

    folder: Path
    config: Path
    data: Path
    alone: TrainResult


def prepare_host_run(cluster: StandaloneCluster, folder: Path) -> HostRun:
    """Prepare on the cluster and train in this process, which is no host of the cluster."""
    raw = folder / "raw"
    raw.mkdir()
    _write_ratings(raw / "ratings.parquet")
    config = folder / "config.yaml"
    run = RunConfig.from_dict(_CONFIG).override(f"data.root={raw}")
    config.write_text(RunConfig.from_dict(run.model_dump() | {"tables": _BY_HOST}).to_yaml())
    prepared = cluster.shardrec("prepare", config, "--master", cluster.url, "--json", cwd=folder)
    data = folder / done(prepared)["dataset"]
    return HostRun(folder, config, data, train(run, data, out=folder / "alone", show_progress=False))


def done(command: Any) -> dict[str, Any]:
    """Return the JSON object of a command that must have succeeded."""
    assert command.returncode == 0, command.stderr[-3000:]
    return dict(json.loads(command.stdout))


def _write_ratings(path: Path) -> None:
    rng = np.random.default_rng(7)
    users, movies = rng.integers(1, 61, 4000), rng.integers(1, 91, 4000)
    liking = np.sin(users) + np.cos(movies) + rng.normal(0, 0.5, 4000)
    columns = {"user_id": users, "movie_id": movies, "age": 18 + users % 50, "rating": 3 + liking.round()}
    pq.write_table(pa.table(columns), path)
