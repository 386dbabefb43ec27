"""Baselines of events whose users are a kept column, on a data set written without Spark, against numpy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs import Dataset, RunConfig, baseline
from tests.support.datasets import write_dataset, write_split
from tests.support.tiny import CONFIG
from trainer.errors import ConfigError, DataError

ROWS = {"train": 600, "valid": 100, "test": 200}
USERS = 25


def _data(folder: Path) -> tuple[RunConfig, Dataset, dict[str, dict[str, np.ndarray]]]:
    run = RunConfig.from_dict(CONFIG).override(
        "data.keep=[user]", "recommend={user: user, item: s0}", "metrics.group=user"
    )
    written = write_dataset(folder, rows=ROWS, num_sequences=0)
    splits, rows, rng = {}, {}, np.random.default_rng(0)
    for split, table in written.tables.items():
        # The last user is in no training row.
        users = rng.integers(0, USERS - (split == "train"), len(table))
        kept = table.append_column("keep.user", pa.array([f"u{user}" for user in users]))
        splits[split] = write_split(folder, split, kept, rows_per_row_group=30, rows_per_file=70)
        rows[split] = {"user": users, "item": table["s0"].to_numpy(), "label": table["label"].to_numpy()}
    changed = {
        "splits": splits,
        "config_hash": run.preparation_hash(),
        "preparation": run.preparation(),
    }
    written.manifest.model_copy(update=changed).save(folder)
    return run, Dataset.open(folder), rows


def _auc(label: np.ndarray, score: np.ndarray) -> float:
    """Return the share of pairs in their order, ties counted half."""
    above, below = score[label == 1][:, None], score[label == 0]
    return float(((above > below) + 0.5 * (above == below)).mean())


def test_events_are_scored_by_what_their_users_met(tmp_path: Path) -> None:
    run, data, rows = _data(tmp_path / "data")
    train, test = rows["train"], rows["test"]
    liked = train["label"] == 1
    items = 1 + max(int(of_split["item"].max()) for of_split in rows.values())
    met = np.zeros((USERS, items))
    met[train["user"][liked], train["item"][liked]] = 1
    met[:, :1] = 0  # padding
    length = np.sqrt(met.sum(axis=0))
    likeness = met.T @ met / np.maximum(length[:, None] * length, 1e-9)
    np.fill_diagonal(likeness, 0)
    expected = {
        "popularity": met.sum(axis=0)[test["item"]],
        "item_knn": (met @ likeness).astype(np.float32)[test["user"], test["item"]],
    }
    for name, scores in expected.items():
        options = {"neighbours": 10_000} if name == "item_knn" else {}
        found = baseline(run, data, name, out=tmp_path / name, confidence=0.9, **options)
        metrics = found.evaluations["test"].metrics
        assert metrics["auc"] == pytest.approx(_auc(test["label"], scores), abs=1e-3)
        assert metrics["rows"] == ROWS["test"]
        assert {"log_loss", "ne", "calibration", "mean_prediction"}.isdisjoint(metrics)
        low, high = found.evaluations["test"].intervals["auc"]
        assert low < metrics["auc"] < high
        record = json.loads((tmp_path / name / "baseline.json").read_text())
        assert record["events"] == met.sum()
        stored = json.loads((tmp_path / name / "evaluation_test.json").read_text())
        assert stored["metrics"]["auc"] == metrics["auc"]

    with pytest.raises(DataError, match=r"does not hold this column(.|\n)*listener"):
        baseline(run.override("recommend.user=listener"), data, out=tmp_path / "nobody")
    with pytest.raises(ConfigError, match=r"no feature of one id(.|\n)*s0"):
        baseline(run.override("recommend.item=song"), data, out=tmp_path / "nobody")
    assert not (tmp_path / "nobody").exists()
