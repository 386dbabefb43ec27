"""The shipped Criteo configs learn on real data; the quickstart shows the same of MovieLens."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import Cluster, Dataset, RunConfig, evaluate, train
from tests.end_to_end.conftest import CONFIGS


@pytest.mark.parametrize("config", ["criteo_dlrm", "criteo_dcn_v2", "criteo_dhen"])
def test_every_criteo_config_learns_on_the_sample(criteo: Dataset, tmp_path: Path, config: str) -> None:
    # The sample has 10,000 rows: batches small enough for some steps, and the shipped config otherwise.
    run = RunConfig.load(CONFIGS / f"{config}.yaml").override(
        "train.global_batch_size=128", "train.epochs=2", "train.schedule.warmup_steps=10"
    )
    result = train(run, criteo, out=tmp_path / "run", show_progress=False)
    metrics = evaluate(result, "test").metrics
    assert metrics["ne"] < 1
    assert metrics["auc"] > 0.6


@pytest.mark.slow
def test_dhen_trains_on_two_ranks_through_torch_distributor(criteo: Dataset, tmp_path: Path) -> None:
    run = RunConfig.load(CONFIGS / "criteo_dhen.yaml").override("train.global_batch_size=256")
    result = train(run, criteo, Cluster.local(2), out=tmp_path / "run", show_progress=False)
    assert result.result["world_size"] == 2
    assert result.metrics["ne"] < 1.05
