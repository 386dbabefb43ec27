"""Metrics of several tasks, each on the rows that count for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from sklearn.metrics import log_loss, mean_absolute_error, roc_auc_score
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from tests.support.predicted import ROWS, predicted, write_kept
from trainer.batch import Batch
from trainer.config.metrics import METRICS
from trainer.data import ReadPolicy
from trainer.data.kept import KeptColumns
from trainer.evaluation import predict
from trainer.evaluation_settings import EvaluationSettings
from trainer.measuring import SplitMeasure
from trainer.records import TaskLabel
from trainer.schema import Manifest


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class _Known(nn.Module):
    """Gives each row its dense features as the logits."""

    def forward(self, batch: Batch) -> Any:
        return None, (None, batch.dense_BF, batch.labels_BT, batch.weights_B)


def test_each_task_is_measured_on_the_rows_that_count_for_it(process_group: None) -> None:
    rng = np.random.default_rng(1)
    outputs = rng.normal(size=(40, 3))
    labels = np.column_stack([rng.integers(0, 2, 40), rng.integers(0, 2, 40), rng.integers(1, 6, 40)]).astype(
        float
    )
    labels[::4, 1] = np.nan
    labels[1::3, 2] = np.nan
    weights = rng.uniform(0.5, 2, 40)
    order = rng.permutation(40)
    tensors = [torch.tensor(x[order]) for x in (outputs, labels, weights, np.arange(40))]
    batch = Batch(tensors[0], KeyedJaggedTensor.empty(), *tensors[1:])  # type: ignore[arg-type]
    tasks = [
        TaskLabel(name="click", params={}),
        TaskLabel(name="buy", params={"known_where": "x"}),
        TaskLabel(name="stars", params={"kind": "rating", "missing": "skip", "mean": 3.0, "std": 1.5}),
    ]
    every = frozenset(METRICS)
    settings = [
        EvaluationSettings(every, logit_shift=0.0 if number else 0.3, rating=task.is_rating)
        for number, task in enumerate(tasks)
    ]
    cpu = torch.device("cpu")
    metrics = SplitMeasure(tasks, settings, None).of(_Known(), [batch], cpu).metrics  # type: ignore[list-item]
    known = ~np.isnan(labels)
    assert metrics["rows"] == 40
    # The shift of down-sampled negatives is the first task's alone.
    for number, name, shift in ((0, "click", 0.3), (1, "buy", 0.0)):
        own = known[:, number]
        probability = 1 / (1 + np.exp(-outputs[own, number] - shift))
        expected = log_loss(labels[own, number], probability, sample_weight=weights[own])
        assert metrics[f"{name}/log_loss"] == pytest.approx(expected, rel=1e-6)
        assert metrics[f"{name}/rows"] == own.sum()
    rating, own = 3.0 + 1.5 * outputs[:, 2], known[:, 2]
    error = mean_absolute_error(labels[own, 2], rating[own], sample_weight=weights[own])
    assert metrics["stars/mae"] == pytest.approx(error, rel=1e-6)
    assert metrics["stars/rows"] == own.sum()
    found = predict(_Known(), [batch], cpu, 0.3, tasks)  # type: ignore[list-item]
    assert found is not None
    scores = [one.scores() for one in (found, *found.others)]
    assert scores[0] == pytest.approx(1 / (1 + np.exp(-outputs[:, 0] - 0.3)))
    assert scores[2] == pytest.approx(rating)


@pytest.mark.parametrize("limit", [100, 2])
def test_segments_are_those_of_all_rows_whichever_task_counts_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr("trainer.evaluator.MAX_SEGMENTS", limit)
    write_kept(tmp_path)
    kept = KeptColumns(tmp_path, Manifest.load(tmp_path), "test", ReadPolicy())
    rows = predicted()
    # `click` is known in France alone, `buy` everywhere else; no row counts for both.
    french = rows.countries == "fr"
    labels = [np.where(french, rows.labels, np.nan), np.where(french, np.nan, rows.labels)]
    columns = np.stack([np.arange(ROWS), rows.weights, rows.scores, -rows.scores, *labels])
    padded = np.pad(columns, ((0, 0), (0, 3)), constant_values=-1)
    padded[1, -3:] = 0
    tasks = [TaskLabel(name=name, params={}) for name in ("click", "buy")]
    settings = [EvaluationSettings(frozenset({"auc"}), by="country", confidence=0.9, resamples=20)] * 2
    parts = [torch.tensor(part) for part in np.array_split(padded, 4, axis=1)]
    found = SplitMeasure(tasks, settings, kept).of_columns(parts, torch.device("cpu"))

    sizes = Counter(rows.countries.tolist())
    assert [(one["value"], one["rows"]) for one in found.segments] == sizes.most_common(limit)
    for segment in found.segments:
        here = (rows.countries == segment["value"]) & (rows.weights > 0)
        name, other, sign = ("click", "buy", 1) if segment["value"] == "fr" else ("buy", "click", -1)
        expected = roc_auc_score(
            rows.labels[here], sign * rows.scores[here], sample_weight=rows.weights[here]
        )
        assert segment["metrics"][f"{name}/auc"] == pytest.approx(expected, abs=1e-9)
        low, high = segment["intervals"][f"{name}/auc"]
        assert low < expected < high
        assert segment["metrics"][f"{name}/rows"] == here.sum()
        assert segment["metrics"][f"{other}/rows"] == 0
    # A baseline learns the first task alone, and has the segments of them all.
    first = SplitMeasure(tasks[:1], settings[:1], kept, of_all_rows=True)
    alone = first.of_columns([part[[0, 1, 2, 4]] for part in parts], torch.device("cpu"))
    assert [(one["value"], one["rows"]) for one in alone.segments] == sizes.most_common(limit)
