"""A model of down-sampled negatives: same training, corrected probabilities everywhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import log_loss

from jobs import Cluster, Dataset, RunConfig, TrainResult, evaluate, train
from jobs.rank_requests import run_request
from tests.support.run_folders import losses
from tests.support.tiny import tiny_data
from trainer.rank_jobs import SCORES_FILE
from trainer.run_folder import RunFolder

KEPT = 0.1


def probabilities(result: TrainResult, data: Dataset, place: Path) -> np.ndarray:
    """Return what scoring gives for the test rows."""
    checkpoint = str(result.result["checkpoint"])
    folder = RunFolder(result.path)
    run_request(place, "score_rank", folder, data, "test", Cluster.local(), checkpoint=checkpoint)
    return pq.read_table(place / SCORES_FILE)["probability"].to_numpy()


def test_scores_and_metrics_are_corrected_and_training_is_not(
    tmp_path: Path, run: RunConfig, data: Dataset
) -> None:
    # The same rows, told to be what was left of ten times as many negatives.
    told = tiny_data(tmp_path / "told", run)
    kept = told.manifest.splits["train"].model_copy(update={"negatives_kept": KEPT})
    splits = {**told.manifest.splits, "train": kept}
    told.manifest.model_copy(update={"splits": splits}).save(told.path)
    told = Dataset.open(told.path)

    plain = train(run, data, out=tmp_path / "plain", show_progress=False)
    corrected = train(run, told, out=tmp_path / "corrected", show_progress=False)
    assert losses(corrected.path) == losses(plain.path)

    # p / (p + (1 - p) / w), as He et al. 2014 write it, with 1 / w times as many negatives.
    p = probabilities(plain, data, tmp_path / "plain_scores")
    expected = p / (p + (1 - p) / KEPT)
    assert probabilities(corrected, told, tmp_path / "scores") == pytest.approx(expected, rel=1e-9)

    labels = pq.read_table(told.path / "test")["label"].to_numpy()
    metrics, before = (evaluate(result).metrics for result in (corrected, plain))
    assert metrics["log_loss"] == pytest.approx(log_loss(labels, expected), rel=1e-9)
    assert metrics["calibration"] == pytest.approx(expected.sum() / labels.sum(), rel=1e-9)
    assert metrics["auc"] == before["auc"]
    # The validation rows hold all their negatives, the training rows only those that training saw.
    assert corrected.metrics["calibration"] < 0.5 * plain.metrics["calibration"]
    of_training = [evaluate(result, split="train").metrics for result in (corrected, plain)]
    assert of_training[0] == of_training[1]
