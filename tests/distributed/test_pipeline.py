"""Ranks that send ids ahead come to the losses of ranks that take one step after another."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import Cluster, Dataset, RunConfig, train
from tests.support.run_folders import losses
from trainer.errors import ConfigError

SETTINGS = {
    "dlrm": ["train.embedding_l2=0.01", "train.max_gradient_norm=1.0", "model.dropout=0.2"],
    "dhen": ["train.ema={decay: 0.9}", "model.dropout=0.2", "tables.s0.sharding_types=[row_wise]"],
}
AHEAD = {"dlrm": 1, "dhen": 1}


@pytest.mark.parametrize("model", SETTINGS)
def test_two_ranks_come_to_the_same_losses(model: str, run: RunConfig, data: Dataset, tmp_path: Path) -> None:
    run = run.override(f"model={{name: {model}, embedding_dim: 8}}", *SETTINGS[model])
    run = run.override("train.log_every_steps=1", "train.evaluate_every_steps=5")
    ranks = Cluster.local(2)
    plain = train(run, data, ranks, out=tmp_path / "plain", show_progress=False)
    run = run.override("train.pipeline=sparse_dist")
    half = train(run.override("train.max_steps=7"), data, ranks, out=tmp_path / "ahead", show_progress=False)
    ahead = train(run, data, ranks, out=half.path, show_progress=False)
    assert (plain.result["modules_ahead"], ahead.result["modules_ahead"]) == (0, AHEAD[model])
    assert losses(ahead.path) == pytest.approx(losses(plain.path), rel=1e-6)
    assert ahead.result["metrics"] == pytest.approx(plain.result["metrics"], rel=1e-5)


@pytest.mark.parametrize("setting", ["train.micro_batches=2", "tables.s0.ids={num_embeddings: 30}"])
def test_what_no_batch_can_be_sent_ahead_for_is_refused(
    setting: str, run: RunConfig, data: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no batch can be sent ahead") as error:
        train(run.override("train.pipeline=sparse_dist", setting), data, out=tmp_path, show_progress=False)
    assert error.value.where == "train.pipeline"
