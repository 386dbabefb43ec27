"""Metrics of ratings agree with scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from trainer.metrics.rating import rating_metrics


@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_agree_with_scikit_learn(weighted: bool) -> None:
    generator = np.random.default_rng(3)
    labels, predictions = generator.integers(1, 6, 500).astype(float), generator.normal(3, 1, 500)
    weights = generator.integers(0, 4, 500) / 2 if weighted else np.ones(500)
    found = rating_metrics(predictions, labels, weights)
    squared = mean_squared_error(labels, predictions, sample_weight=weights)
    assert found["rmse"] == pytest.approx(math.sqrt(squared))
    assert found["mae"] == pytest.approx(mean_absolute_error(labels, predictions, sample_weight=weights))
    assert found["r2"] == pytest.approx(r2_score(labels, predictions, sample_weight=weights))
    assert found["mean_label"] == pytest.approx(np.average(labels, weights=weights))
    assert found["mean_prediction"] == pytest.approx(np.average(predictions, weights=weights))
    assert found["rows"] == np.count_nonzero(weights)


def test_errors_of_a_hand_computed_case() -> None:
    predictions, labels = np.array([1.0, 2.0, 5.0]), np.array([2.0, 2.0, 1.0])
    found = rating_metrics(predictions, labels, np.ones(3))
    assert (found["rmse"], found["mae"]) == (pytest.approx(math.sqrt(17 / 3)), pytest.approx(5 / 3))
    assert rating_metrics(predictions, labels, np.array([1.0, 1.0, 0.0]))["rmse"] == pytest.approx(0.5**0.5)


def test_no_rows_and_equal_labels_give_nan() -> None:
    nothing = rating_metrics(np.empty(0), np.empty(0), np.empty(0))
    assert all(math.isnan(value) for name, value in nothing.items() if name != "rows")
    assert nothing["rows"] == 0
    equal = rating_metrics(np.array([1.0, 3.0]), np.array([2.0, 2.0]), np.ones(2))
    assert math.isnan(equal["r2"])
    assert equal["rmse"] == 1.0
