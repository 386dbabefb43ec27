"""Metrics by the values of a column."""

from __future__ import annotations

import datetime
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import log_loss

from trainer.evaluation import Predictions, metrics_by_value


@pytest.fixture
def predictions() -> Predictions:
    rng = np.random.default_rng(0)
    return Predictions(
        np.arange(60), rng.normal(size=60), rng.integers(0, 2, 60).astype(float), rng.uniform(0.5, 2, 60)
    )


def test_each_value_has_the_metrics_of_its_rows(predictions: Predictions) -> None:
    values = pa.array(["a"] * 30 + ["b"] * 10 + ["c"] * 20)
    found = metrics_by_value(predictions, values)
    assert [(group["value"], group["rows"]) for group in found] == [("a", 30), ("c", 20), ("b", 10)]
    for group, rows in zip(found, (slice(30), slice(40, 60), slice(30, 40)), strict=True):
        probability = 1 / (1 + np.exp(-predictions.logits_N[rows]))
        expected = log_loss(
            predictions.labels_N[rows], probability, sample_weight=predictions.weights_N[rows], labels=[0, 1]
        )
        assert group["metrics"]["log_loss"] == pytest.approx(expected)
    assert [group["value"] for group in metrics_by_value(predictions, values, limit=1)] == ["a"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([1] * 30 + [None] * 30, pa.int64()), [1, None]),
        (pa.array(["x"] * 30 + [None] * 30), ["x", None]),
        (pa.array([True] * 30 + [None] * 30), [True, None]),
        (pa.array([datetime.date(2026, 1, 31)] * 30 + [None] * 30), ["2026-01-31", None]),
        (pa.array([["a", "b"]] * 30 + [None] * 30), ["['a', 'b']", None]),
    ],
)
def test_missing_values_and_numbers_stay_what_they_are(
    predictions: Predictions, values: pa.Array, expected: list[Any]
) -> None:
    found = metrics_by_value(predictions, values)
    assert json.loads(json.dumps([group["value"] for group in found])) == expected
