"""The training loss of the log, against the evaluator's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs import RunConfig, evaluate, train
from tests.support.tiny import CONFIG, tiny_data


@pytest.mark.parametrize("weight", [False, True])
def test_an_epoch_without_learning_logs_the_log_loss_of_its_rows(tmp_path: Path, weight: bool) -> None:
    run = RunConfig.from_dict(CONFIG).override(
        "train.max_steps=15",
        "train.log_every_steps=15",
        "train.checkpoint_every_steps=null",
        "train.dense_optimizer.learning_rate=1e-12",
        "train.embedding_optimizer.learning_rate=1e-12",
    )
    # 15 whole batches: every row is in one.
    data = tiny_data(tmp_path / "data", run, rows={"train": 960, "valid": 64}, weight=weight)
    result = train(run, data, out=tmp_path / "run", show_progress=False)
    lines = [json.loads(line) for line in (result.path / "metrics.jsonl").read_text().splitlines()]
    (loss,) = (line["loss"] for line in lines if line["kind"] == "train")
    assert loss == pytest.approx(evaluate(result, split="train").metrics["log_loss"], rel=1e-5)
