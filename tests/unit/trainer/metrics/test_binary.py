"""Binary metrics against scikit-learn and numbers worked out by hand."""

import math

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from trainer.metrics import binary_metrics, roc_auc


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
    assert all(math.isnan(found[name]) for name in ("auc", "log_loss", "ne", "calibration", "accuracy"))


def test_a_prior_of_down_sampled_negatives_is_calibrated_after_its_correction() -> None:
    # 100 positives and 900 negatives, 90 of them kept: the prior is 100 / 190, the true rate 100 / 1000.
    labels = np.repeat([1.0, 0.0], [100, 900])
    prior = np.full(1000, math.log(100 / 90))
    assert binary_metrics(prior, labels, np.ones(1000))["calibration"] == pytest.approx(1000 / 190)
    found = binary_metrics(prior + math.log(90 / 900), labels, np.ones(1000))
    assert found["calibration"] == pytest.approx(1.0)
    assert found["ne"] == pytest.approx(1.0)
