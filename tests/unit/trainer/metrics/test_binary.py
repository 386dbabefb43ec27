"""Binary metrics against scikit-learn and numbers worked out by hand."""

import math

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    log_loss,
    mean_absolute_error,
    roc_auc_score,
    root_mean_squared_error,
)

from trainer.metrics import BinarySums, binary_metrics, roc_auc


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_equal_scikit_learn(ties: bool, weighted: bool) -> None:
    generator = np.random.default_rng(3)
    logits = generator.normal(size=5000)
    if ties:
        logits = np.round(logits, 1)
    labels = (generator.random(5000) < 1 / (1 + np.exp(-logits))).astype(float)
    weights = generator.random(5000) * 3 if weighted else np.ones(5000)
    probabilities = 1 / (1 + np.exp(-logits))

    found = binary_metrics(logits, labels, weights)

    base_rate = np.average(labels, weights=weights)
    entropy = -(base_rate * math.log(base_rate) + (1 - base_rate) * math.log(1 - base_rate))
    loss = log_loss(labels, probabilities, sample_weight=weights)
    assert found["auc"] == pytest.approx(roc_auc_score(labels, logits, sample_weight=weights), abs=1e-12)
    assert found["log_loss"] == pytest.approx(loss, abs=1e-12)
    assert found["ne"] == pytest.approx(loss / entropy, abs=1e-12)
    assert found["calibration"] == pytest.approx(np.average(probabilities, weights=weights) / base_rate)
    assert found["accuracy"] == pytest.approx(np.average((probabilities >= 0.5) == labels, weights=weights))
    assert found["rows"] == 5000
    expected = average_precision_score(labels, logits, sample_weight=weights)
    assert found["pr_auc"] == pytest.approx(expected, abs=1e-12)
    expected = root_mean_squared_error(labels, probabilities, sample_weight=weights)
    assert found["rmse"] == pytest.approx(expected, abs=1e-12)
    expected = mean_absolute_error(labels, probabilities, sample_weight=weights)
    assert found["mae"] == pytest.approx(expected, abs=1e-12)
    # ECE bin by bin, as it is defined.
    gaps = []
    for low, high in zip(np.arange(15) / 15, np.arange(1, 16) / 15, strict=True):
        inside = (probabilities > low) & (probabilities <= high)
        gaps.append(abs((weights * (probabilities - labels))[inside].sum()) / weights.sum())
    assert found["ece"] == pytest.approx(sum(gaps), abs=1e-12)


@pytest.mark.parametrize("rows_at_once", [1, 7, 999])
def test_rows_in_any_number_of_parts_give_the_same_to_the_last_bit(rows_at_once: int) -> None:
    generator = np.random.default_rng(5)
    logits = -np.sort(-np.round(generator.normal(size=1000), 1))
    labels, weights = (generator.random(1000) < 0.3).astype(float), generator.random((1000, 3))
    whole, parts = BinarySums(columns=3), BinarySums(columns=3)
    whole.add(logits, labels, weights)
    for start in range(0, 1000, rows_at_once):
        rows = slice(start, start + rows_at_once)
        parts.add(logits[rows], labels[rows], weights[rows])
    np.testing.assert_array_equal(parts.state, whole.state)
    for name, values in whole.metrics().items():
        alone = binary_metrics(logits, labels, weights[:, 1])
        assert values[1] == pytest.approx(alone[name], abs=1e-12)


def test_a_constant_model_has_the_base_rate_as_average_precision_and_its_bias_as_ece() -> None:
    labels = np.array([1.0, 0.0, 0.0, 0.0])
    found = binary_metrics(np.zeros(4), labels, np.ones(4))
    assert found["pr_auc"] == 0.25
    assert found["ece"] == 0.25
    assert binary_metrics(np.zeros(4), labels, np.array([3.0, 1, 1, 1]))["ece"] == 0.0


def test_a_tie_counts_half() -> None:
    # Pairs (positive, negative): (2, 1) right, (2, 2) tied -> (1 + 0.5) / 2.
    assert roc_auc(np.array([2.0, 1.0, 2.0]), np.array([1.0, 0.0, 0.0])) == 0.75


def test_rows_of_weight_zero_do_not_count() -> None:
    logits, labels = np.array([1.0, -1.0, 9.0]), np.array([1.0, 0.0, 0.0])
    with_padding = binary_metrics(logits, labels, np.array([1.0, 1.0, 0.0]))
    assert with_padding == binary_metrics(logits[:2], labels[:2], np.ones(2))


def test_predicting_the_base_rate_has_ne_one() -> None:
    labels = np.array([1.0, 0.0, 0.0, 0.0])
    found = binary_metrics(np.full(4, math.log(1 / 3)), labels, np.ones(4))
    assert found["ne"] == pytest.approx(1.0)
    assert found["auc"] == 0.5
    assert found["calibration"] == pytest.approx(1.0)


def test_one_class_alone_has_no_auc_and_no_ne() -> None:
    found = binary_metrics(np.array([1.0, 2.0]), np.zeros(2), np.ones(2))
    assert math.isnan(found["auc"])
    assert math.isnan(found["ne"])
    assert math.isnan(found["pr_auc"])
    assert found["log_loss"] > 0


def test_extreme_logits_stay_finite() -> None:
    found = binary_metrics(np.array([1e4, -1e4]), np.array([1.0, 0.0]), np.ones(2))
    assert found["log_loss"] == 0.0
    assert found["calibration"] == 1.0


def test_no_rows_give_nan() -> None:
    found = binary_metrics(np.array([]), np.array([]), np.array([]))
    assert found["rows"] == 0
    assert math.isnan(found["log_loss"])


@pytest.mark.parametrize("where", [slice(None), slice(0, 1)])
def test_a_logit_that_is_not_a_number_leaves_no_plausible_metric(where: slice) -> None:
    logits, labels = np.array([3.0, 2.0, -1.0, -2.0]), np.array([1.0, 1.0, 0.0, 0.0])
    logits[where] = math.nan
    found = binary_metrics(logits, labels, np.ones(4))
    assert found["rows"] == 4
    assert found["base_rate"] == 0.5
    assert all(math.isnan(found[name]) for name in found.keys() - {"rows", "base_rate"})


def test_a_prior_of_down_sampled_negatives_is_calibrated_after_its_correction() -> None:
    # 100 positives and 900 negatives, 90 of them kept: the prior is 100 / 190, the true rate 100 / 1000.
    labels = np.repeat([1.0, 0.0], [100, 900])
    prior = np.full(1000, math.log(100 / 90))
    assert binary_metrics(prior, labels, np.ones(1000))["calibration"] == pytest.approx(1000 / 190)
    found = binary_metrics(prior + math.log(90 / 900), labels, np.ones(1000))
    assert found["calibration"] == pytest.approx(1.0)
    assert found["ne"] == pytest.approx(1.0)
