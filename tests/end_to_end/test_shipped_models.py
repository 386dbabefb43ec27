"""The MovieLens-100K config of every model prepares, trains and is evaluated, on a part of the ratings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs import Dataset, RunConfig, evaluate, prepare, train
from jobs.movielens import unpack_movielens_100k
from tests.end_to_end.conftest import CONFIGS
from tests.support.run_folders import losses
from trainer.registry import models

SHIPPED = [path for path in sorted(CONFIGS.glob("movielens_100k_*.yaml")) if path.stem[-5:] != "_base"]
RATINGS = 6_000
FOUND_AMONG = 250
LEARN_SOON = [
    f"metrics.at=[{FOUND_AMONG}]",
    f"train.early_stopping.metric=hr@{FOUND_AMONG}",
    "train.dense_optimizer.learning_rate=0.003",
    "train.embedding_optimizer.learning_rate=0.1",
]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = unpack_movielens_100k(tmp_path_factory.mktemp("raw"))
    ratings = pq.read_table(folder / "ratings.parquet")
    pq.write_table(ratings.slice(0, RATINGS), folder / "ratings.parquet")
    return folder


def test_every_model_has_a_config_of_its_name() -> None:
    names = {RunConfig.load(path).model.name for path in SHIPPED}
    assert names == set(models())
    assert all(path.stem == f"movielens_100k_{RunConfig.load(path).model.name}" for path in SHIPPED)


def test_every_config_trains_and_is_evaluated(spark: Any, raw: Path, tmp_path: Path) -> None:
    prepared: dict[str, Dataset] = {}
    for path in SHIPPED:
        run = RunConfig.load(path, [f"data.root={raw}", "train.epochs=2", "train.log_every_steps=1"])
        if run.data.labels:  # experts and towers learn more slowly than one network
            run = run.override("train.dense_optimizer.learning_rate=0.01")
        ranks = models()[run.model.name].task in ("retrieval", "sequence")
        if ranks:
            size, epochs = (32, 12) if "train" in run.data.user_rows.splits else (128, 6)  # users, or events
            run = run.override(*LEARN_SOON, f"train.global_batch_size={size}", f"train.epochs={epochs}")
        features = run.preparation_hash()  # Configs of the same features share a data set.
        if features not in prepared:
            prepared[features] = prepare(None, run, tmp_path / f"data_{features}")
        result = train(run, prepared[features], out=tmp_path / run.name, show_progress=False)
        told = losses(tmp_path / run.name)
        if models()[run.model.name].task in ("ctr", "multi_task"):  # What others look up they draw first.
            ahead = run.override("train.pipeline=sparse_dist", "train.epochs=1")
            sent = train(ahead, prepared[features], out=tmp_path / f"{run.name}_ahead", show_progress=False)
            assert sent.result["modules_ahead"] > 0, run.name
            epoch = pytest.approx(told[: len(told) // 2], rel=1e-6)
            assert losses(tmp_path / f"{run.name}_ahead") == epoch, run.name
        part = len(told) // 3
        assert sum(told[-part:]) < sum(told[:part]), run.name
        assert run.train.early_stopping is not None
        metric = run.train.early_stopping.metric  # with several tasks that of the first
        found = evaluate(result, "test").metrics[metric]
        chance = 0.5
        if ranks:
            # A few steps teach little more than which movies many like; of random orders one in fifty passes.
            manifest = prepared[features].manifest
            share = FOUND_AMONG / (manifest.statistics["targets"].ids or 0)
            chance = share + 2 * math.sqrt(share * (1 - share) / manifest.split("test").rows)
        assert found > chance, run.name
    assert len(prepared) < len(SHIPPED)
