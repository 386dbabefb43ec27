"""Metrics that say that something is wrong, from scores made for it by the evaluator's own metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from trainer.guard.evaluations import GapWatch, auc_error, metric_findings, rating_findings
from trainer.metrics import binary_metrics

ROWS = 20_000


def metrics(kind: str) -> dict[str, float]:
    """Return the metrics of rows whose labels follow known odds, predicted in some way."""
    rng = np.random.default_rng(3)
    logits = rng.normal(-2.0, 1.0, ROWS)
    labels = (rng.random(ROWS) < 1 / (1 + np.exp(-logits))).astype(np.float64)
    rate = labels.mean()
    constant = np.full(ROWS, np.log(rate / (1 - rate)))
    scores: dict[str, Any] = {
        "learnt": logits,
        "constant": constant,
        "noise": constant + 0.1 * rng.normal(size=ROWS),
        "turned": -4.0 - logits,
        # A tenth of the negatives seen in training, nothing corrected.
        "downsampled": logits + np.log(10),
        "leak": np.where(labels > 0, 4.0, -4.0),
        "overconfident": -2.0 + 4 * (logits + 2.0),
    }
    return binary_metrics(scores[kind], labels, np.ones(ROWS))


def codes(kind: str, calibrated: bool = True) -> list[str]:
    return [finding.code for finding in metric_findings(metrics(kind), 500, calibrated)]


def test_what_is_wrong_is_told_by_its_name() -> None:
    assert codes("learnt") == []
    assert codes("constant") == ["auc_near_half"]
    assert codes("noise") == ["auc_near_half"]
    assert codes("turned") == ["auc_below_half"]
    assert codes("downsampled") == ["ne_above_1", "calibration_off"]
    assert codes("leak") == ["auc_near_1"]
    assert codes("overconfident") == ["ne_above_1", "calibration_off"]


def test_a_loss_that_is_not_calibrated_is_not_judged_by_probabilities() -> None:
    assert codes("downsampled", calibrated=False) == []
    assert codes("noise", calibrated=False) == ["auc_near_half"]


def test_the_message_tells_which_share_of_the_negatives_was_kept() -> None:
    (found,) = (f for f in metric_findings(metrics("downsampled"), 500, True) if f.code == "calibration_off")
    share = float(found.fixes[0].split("about ")[1].split("%")[0]) / 100
    # Odds of the means, and not the mean of the odds: near a tenth.
    assert share == pytest.approx(0.1, rel=0.5)


def test_few_rows_are_not_judged_more_strictly_than_they_allow() -> None:
    few = {"auc": 0.55, "ne": 0.98, "calibration": 0.7, "base_rate": 0.2, "rows": 100}
    assert metric_findings(few, 500, True) == []
    many = few | {"rows": 100_000}
    assert [finding.code for finding in metric_findings(many, 500, True)] == ["calibration_off"]


@pytest.mark.parametrize("values", [{}, {"auc": None, "ne": float("nan"), "base_rate": 1.0, "rows": 10}])
def test_metrics_that_rows_do_not_define_tell_nothing(values: dict[str, Any]) -> None:
    assert metric_findings(values, 500, True) == []


def test_each_of_several_tasks_is_judged_by_its_own_metrics() -> None:
    values = {f"like/{name}": value for name, value in metrics("learnt").items()}
    values |= {f"share/{name}": value for name, value in metrics("turned").items()}
    assert metric_findings(values, 500, True, "like") == []
    (found,) = metric_findings(values, 500, True, "share")
    assert (found.code, found.subjects) == ("auc_below_half", ("share",))
    assert f"of {ROWS:,} validation rows of task 'share'" in found.what
    assert metric_findings(values, 500, True) == []


def test_a_task_whose_validation_labels_are_all_the_same_is_told() -> None:
    values = {"click/auc": float("nan"), "click/ne": float("nan"), "click/base_rate": 0.0, "click/rows": 5000}
    (found,) = metric_findings(values, 100, True, "click")
    assert (found.code, found.subjects) == ("label_constant", ("click/valid",))
    assert "task 'click' has label 0 (5,000 rows)" in found.what


def test_ratings_no_better_predicted_than_by_their_mean_are_told() -> None:
    assert rating_findings({"r2": 0.01, "rows": 500}, 100) == []
    assert rating_findings({"rmse": 1.0, "rows": 500}, 100) == rating_findings({"r2": -1.0}, 100) == []
    (found,) = rating_findings({"r2": -0.02, "rows": 500}, 100)
    assert (found.code, found.subjects) == ("r2_below_0", ("valid",))
    (found,) = rating_findings({"stars/r2": 0.0, "stars/rows": 500}, 100, "stars")
    assert found.subjects == ("stars",)
    assert "R2 is 0.0000 of 500 validation rows of task 'stars'" in found.what


def test_the_error_of_an_auc_by_chance_is_that_of_many_draws() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(300) < 60
    drawn = [roc_auc_score(labels, rng.random(300)) for _ in range(200)]
    assert auc_error(60, 240) == pytest.approx(np.std(drawn), rel=0.15)


def run(gap: GapWatch, train: list[float], valid: list[float]) -> list[tuple[int, str]]:
    pairs = enumerate(zip(train, valid, strict=True), start=1)
    return [(f.step, f.code) for step, (a, b) in pairs for f in gap.evaluated(100 * step, a, b)]


def test_training_that_falls_while_validation_rises_is_over_fitting() -> None:
    train, valid = [0.60, 0.50, 0.40, 0.30, 0.20], [0.62, 0.58, 0.60, 0.63, 0.68]
    assert run(GapWatch(2), train, valid) == [(400, "overfitting"), (500, "overfitting")]
    assert run(GapWatch(3), train, valid) == [(500, "overfitting")]
    gap = GapWatch(2)
    assert run(gap, train[:3], valid[:3]) == []
    (found,) = gap.evaluated(400, train[3], valid[3])
    assert "8.6% above its best of 0.5800 at step 200" in found.what
    assert found.fixes == ("train.max_steps: 200, where the validation log loss was best",)


@pytest.mark.parametrize(
    ("train", "valid"),
    [
        ([0.6, 0.5, 0.4, 0.3], [0.60, 0.59, 0.58, 0.57]),
        ([0.6, 0.5, 0.4, 0.3], [0.60, 0.61, 0.59, 0.60]),
        ([0.6, 0.5, 0.4, 0.3], [0.600, 0.6005, 0.601, 0.6015]),
        ([0.6, 0.7, 0.8, 0.9], [0.60, 0.65, 0.70, 0.75]),
    ],
    ids=["both fall", "a zigzag", "a rise too small", "both rise"],
)
def test_other_courses_are_not(train: list[float], valid: list[float]) -> None:
    assert run(GapWatch(2), train, valid) == []


def test_a_gap_names_its_metric() -> None:
    gap = GapWatch(1)
    assert gap.evaluated(100, 0.6, 1.0, "RMSE") == []
    (found,) = gap.evaluated(200, 0.5, 1.1, "RMSE")
    assert "the validation RMSE rose: 1.1000" in found.what
    assert found.fixes == ("train.max_steps: 100, where the validation RMSE was best",)


def test_a_gap_taken_up_again_is_the_same() -> None:
    train, valid = [0.6, 0.5, 0.4], [0.58, 0.60, 0.63]
    first = GapWatch(2)
    assert run(first, train[:2], valid[:2]) == []
    (found,) = GapWatch(2, **first.state).evaluated(300, train[2], valid[2])
    assert found.code == "overfitting"
