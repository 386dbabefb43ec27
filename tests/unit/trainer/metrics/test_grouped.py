"""GAUC against scikit-learn, group by group, and the errors of ratings."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, roc_auc_score, root_mean_squared_error

from trainer.metrics import gauc, group_values, rating_metrics, roc_auc


@pytest.mark.parametrize("weighted", [False, True])
def test_gauc_is_the_mean_auc_of_groups_with_both_classes_by_their_rows(weighted: bool) -> None:
    rng = np.random.default_rng(1)
    groups, scores = rng.integers(0, 60, 1500) * 7 - 100, np.round(rng.normal(size=1500), 1)
    labels = (rng.random(1500) < 0.06).astype(float)
    weights = rng.random(1500) * (rng.random(1500) < 0.9) if weighted else np.ones(1500)
    aucs, sizes, left_out = [], [], 0
    for group in np.unique(groups):
        rows = (groups == group) & (weights > 0)
        if len(np.unique(labels[rows])) < 2:
            left_out += 1
            continue
        aucs.append(roc_auc_score(labels[rows], scores[rows], sample_weight=weights[rows]))
        sizes.append(weights[rows].sum())
    assert left_out > 3
    expected = np.average(aucs, weights=sizes)
    found = gauc(groups, scores, labels, weights if weighted else None)
    assert found == pytest.approx(expected, abs=1e-12)


def test_groups_of_one_class_alone_give_no_gauc() -> None:
    assert math.isnan(gauc(np.array([0, 0, 1]), np.array([1.0, 2, 3]), np.array([0.0, 0, 1])))


def test_a_score_that_is_not_a_number_leaves_no_gauc_unless_its_row_does_not_count() -> None:
    groups, labels = np.array([0, 0, 0, 1, 1, 1]), np.array([0.0, 0, 1, 1, 0, 0])
    scores = np.array([np.nan, 0.2, 0.1, 2.0, 1.0, 0.0])
    assert math.isnan(gauc(groups, scores, labels))
    assert math.isnan(roc_auc(scores, labels))
    # Without the first row group 0 has AUC 0 by 2 rows, and group 1 AUC 1 by 3.
    assert gauc(groups, scores, labels, (np.arange(6) > 0).astype(float)) == pytest.approx(3 / 5)


def test_a_group_has_the_same_auc_to_the_last_bit_whatever_groups_are_beside_it() -> None:
    rng = np.random.default_rng(4)
    sizes = rng.integers(1, 40, 50)
    groups = np.repeat(np.arange(50), sizes)
    scores = np.concatenate([-np.sort(-rng.normal(size=size)) for size in sizes])
    labels, weights = (rng.random(len(groups)) < 0.4).astype(float), rng.random(len(groups))
    together = group_values(groups, scores, labels, weights).auc_G
    for group in range(50):
        rows = groups == group
        alone = group_values(np.zeros(sizes[group], int), scores[rows], labels[rows], weights[rows])
        np.testing.assert_array_equal(alone.auc_G, together[group : group + 1])


def test_errors_of_ratings_equal_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    predicted, ratings, weights = (
        rng.normal(3, 1, 200),
        rng.integers(1, 6, 200).astype(float),
        rng.random(200),
    )
    weights[:20] = 0
    found = rating_metrics(predicted, ratings, weights)
    expected = root_mean_squared_error(ratings, predicted, sample_weight=weights)
    assert found["rmse"] == pytest.approx(expected, abs=1e-12)
    expected = mean_absolute_error(ratings, predicted, sample_weight=weights)
    assert found["mae"] == pytest.approx(expected, abs=1e-12)
    assert found["rows"] == 180
    assert math.isnan(rating_metrics(predicted, ratings, np.zeros(200))["rmse"])
