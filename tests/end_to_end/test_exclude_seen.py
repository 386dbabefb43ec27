"""A run whose negatives leave out what users met: the same losses on two ranks that take it up again."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import Cluster, RunConfig, train
from tests.support.run_folders import losses
from tests.support.tiny import tiny_data
from tests.unit.trainer.test_seen_pairs import CONFIG, ROWS
from trainer.errors import ConfigError


def test_two_ranks_go_on_with_the_draws_of_one(tmp_path: Path) -> None:
    run = RunConfig.from_dict(CONFIG)
    data = tiny_data(tmp_path / "data", run, **ROWS)
    train(run, data, out=tmp_path / "whole", show_progress=False)
    train(run.override("train.max_steps=3"), data, out=tmp_path / "broken", show_progress=False)
    train(run, data, Cluster(ranks_per_node=2, on="torchrun"), out=tmp_path / "broken", show_progress=False)
    whole = losses(tmp_path / "whole")
    assert losses(tmp_path / "broken") == pytest.approx(whole, rel=1e-4)
    free = run.override("model.negatives.exclude_seen_by=null")
    train(free, data, out=tmp_path / "free", show_progress=False)
    assert losses(tmp_path / "free")[-1] != pytest.approx(whole[-1], rel=1e-3)


def test_too_much_memory_is_told_before_the_launch(tmp_path: Path) -> None:
    run = RunConfig.from_dict(CONFIG)
    data = tiny_data(tmp_path / "data", run, **ROWS)
    split = data.manifest.splits["train"].model_copy(update={"rows": 10**9})
    larger = data.manifest.model_copy(update={"splits": {**data.manifest.splits, "train": split}})
    larger.save(data.path)
    with pytest.raises(ConfigError, match="seen_memory_mib"):
        train(run, str(data.path), out=tmp_path / "run", show_progress=False)
    assert not (tmp_path / "run").exists()
