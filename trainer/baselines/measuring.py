"""Measures a fitted baseline on a split as a run is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.baselines.fitted import Baseline
from trainer.baselines.histories import Histories
from trainer.baselines.rows import BaselineRows
from trainer.batch import Batch
from trainer.errors import ConfigError
from trainer.evaluation_settings import EvaluationSettings
from trainer.evaluator import Evaluated
from trainer.measuring import SplitMeasure

OF_PREDICTIONS = frozenset({"ne", "log_loss", "calibration", "accuracy", "ece", "rmse", "mae", "r2"})
"""Metrics of probabilities or ratings; scores that only order rows have none of them."""
_BESIDE = "mean_prediction"
_CPU = torch.device("cpu")


def measure_of(measure: SplitMeasure, *, predicts: bool) -> SplitMeasure:
    """Return what of a run's metrics a baseline has: of several tasks those of the first.

    Args:
        measure: of the run.
        predicts: whether scores are ratings; else metrics of predictions are left out.

    Raises:
        ConfigError: no metric of order is left.
    """
    if measure.target is not None:
        return measure
    settings = measure.settings[0] if predicts else _of_order(measure.settings[0])
    return replace(measure, settings=[settings, *measure.settings[1:]])


def measured(
    measure: SplitMeasure,
    split: str,
    baseline: Baseline,
    rows: BaselineRows,
    trained: Histories,
    *,
    predicts: bool,
) -> Evaluated:
    """Return the metrics of a baseline on a split.

    Rows of users are ranked by the items that they list; events are scored by what their user met in
    training.

    Args:
        measure: what to compute, by `measure_of`.
        split: whose rows they are.
        baseline: fitted.
        rows: reads the split.
        trained: histories in training, where rows are events.
        predicts: whether scores are ratings.

    Raises:
        DataError: a part file is missing or damaged.
        StoreError: the store cannot be read.
    """
    if measure.target is not None:
        scorer = _Scorer(baseline, rows)
        return measure.of_scores(scorer, rows.batches(split), _CPU, vectors=False)
    task = measure.tasks[0]
    one = replace(measure, tasks=[task], settings=measure.settings[:1])
    found = one.of_columns(_columns(split, baseline, rows, trained, task.mean, task.std), _CPU)
    if not predicts:
        found = _without_predictions(found)
    if len(measure.tasks) == 1:
        return found
    return replace(
        found,
        metrics={"rows": found.rows, **_prefixed(task.name, found.metrics)},
        intervals=_prefixed(task.name, found.intervals),
        segments=[
            {**one, **{key: _prefixed(task.name, one[key]) for key in ("metrics", "intervals") if key in one}}
            for one in found.segments
        ],
    )


class _Scorer:
    """A baseline in the place of a model: a query is a row's scores of all items, an item its place there."""

    def __init__(self, baseline: Baseline, rows: BaselineRows) -> None:
        self._baseline, self._rows = baseline, rows
        self.first, self.num_items = rows.roles.first, rows.roles.num_items
        self.holders: Sequence[str] = rows.roles.lists

    def items(self, batch: Batch) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        ids_N = torch.arange(self.first, self.first + self.num_items)
        return ids_N, torch.arange(self.num_items).unsqueeze(1)

    def queries(self, batch: Batch) -> Tensor:
        return torch.from_numpy(self._baseline.of_all(self._rows.of_lists(batch)))

    def scores(self, queries_BX: Tensor, items_NX: Tensor) -> Tensor:
        return queries_BX[:, items_NX[:, 0]]


def _columns(
    split: str, baseline: Baseline, rows: BaselineRows, trained: Histories, mean: float, std: float
) -> Iterator[Tensor]:
    """Yield what `prediction_columns` gives of a model, of one task."""
    numbers = rows.users(split)
    for batch in rows.batches(split):
        users, place_B = np.unique(numbers.of(batch), return_inverse=True)
        items_B = rows.items_of(batch)
        known_B = items_B >= 0
        scores_B = np.full(batch.size, baseline.unknown, np.float64)
        scores_B[known_B] = baseline.of_pairs(trained.of(users), place_B[known_B], items_B[known_B])
        scores = torch.from_numpy((scores_B - mean) / std)
        label_B = batch.labels_BT[:, 0].double()
        yield torch.stack([batch.rows_B.double(), batch.weights_B.double(), scores, label_B])


def _of_order(settings: EvaluationSettings) -> EvaluationSettings:
    left = replace(settings, names=settings.names - OF_PREDICTIONS)
    if left.grouped or (not left.rating and left.names & {"auc", "pr_auc"}):
        return left
    raise ConfigError(
        "this baseline gives no predictions, only an order, and no metric of order is computed",
        where="metrics.names",
        got=sorted(settings.names),
        fixes=["add groups to rank in: metrics.group", "--model als, which predicts ratings"]
        if settings.rating
        else ["metrics.names: [auc]"],
    )


def _without_predictions(found: Evaluated) -> Evaluated:
    def left(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name != _BESIDE}

    segments = [
        {**one, **{key: left(one[key]) for key in ("metrics", "intervals") if key in one}}
        for one in found.segments
    ]
    return replace(found, metrics=left(found.metrics), intervals=left(found.intervals), segments=segments)


def _prefixed(task: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{task}/{name}": value for name, value in values.items()}
