"""Early stopping: when a value counts as better, and when patience is out."""

import math

import pytest

from trainer.checkpoint import Progress
from trainer.config import EarlyStoppingConfig, PlateauConfig
from trainer.errors import ConfigError
from trainer.improvement import follow_plateau, update_best


def follow(values: list[float], stopping: EarlyStoppingConfig) -> Progress:
    progress = Progress()
    for step, value in enumerate(values, start=1):
        progress.step = step
        progress.evaluation = {stopping.metric: value}
        update_best(progress, stopping)
        if progress.finished:
            break
    return progress


@pytest.mark.parametrize(
    ("metric", "values", "best", "stopped_after"),
    [
        ("auc", [0.6, 0.7, 0.69, 0.68, 0.9], 2, 4),
        ("ne", [0.9, 0.8, 0.85, 0.81, 0.1], 2, 4),
        ("auc", [0.6, 0.59, 0.7, 0.69, 0.8], 5, None),
        ("ndcg@10", [0.3, 0.4, 0.39, 0.38, 0.9], 2, 4),
        ("ece", [0.3, 0.2, 0.25, 0.21, 0.1], 2, 4),
    ],
)
def test_patience_counts_evaluations_since_the_best(
    metric: str, values: list[float], best: int, stopped_after: int | None
) -> None:
    progress = follow(values, EarlyStoppingConfig(metric=metric, patience=2))
    assert progress.best_step == best
    assert progress.finished == (stopped_after is not None)
    assert progress.step == (stopped_after or len(values))


def test_a_gain_below_min_delta_does_not_count() -> None:
    progress = follow([0.700, 0.704, 0.708, 0.72], EarlyStoppingConfig(patience=2, min_delta=0.01))
    assert progress.best_step == 1
    assert progress.step == 3


def test_a_metric_that_is_not_a_number_never_is_the_best() -> None:
    progress = follow([0.6, float("nan"), 0.5], EarlyStoppingConfig(patience=2))
    assert progress.best_step == 1
    assert progress.finished
    assert follow([float("nan"), 0.5, 0.4], EarlyStoppingConfig(patience=2)).best_step == 2


def test_a_metric_that_evaluations_do_not_have_is_an_error_and_no_standstill() -> None:
    progress = Progress(step=1, evaluation={"ndcg@5": 0.1, "hr@5": 0.2, "calibration": 1.0, "rows": 9})
    message = r"{0}.metric\n.*ndcg@10\n.*allowed: ndcg@5, hr@5\n.*{0}.metric: ndcg@5"
    with pytest.raises(ConfigError, match=message.format("train.early_stopping")):
        update_best(progress, EarlyStoppingConfig(metric="ndcg@10", patience=1))
    with pytest.raises(ConfigError, match=message.format("train.plateau")):
        follow_plateau(progress, PlateauConfig(metric="ndcg@10", patience=1))
    assert (progress.finished, progress.plateau_factor) == (False, 1.0)


def test_a_resumed_run_that_stops_by_another_metric_compares_like_with_like() -> None:
    progress = Progress(step=1, evaluation={"ne": 0.99, "auc": 0.70})
    update_best(progress, EarlyStoppingConfig(metric="ne", patience=2))
    auc = EarlyStoppingConfig(metric="auc", patience=2)
    progress.step, progress.evaluation = 2, {"ne": 1.01, "auc": 0.74}
    assert update_best(progress, auc)
    assert (progress.best_step, progress.best_value, progress.best_metric) == (2, 0.74, "auc")
    progress.step, progress.evaluation = 3, {"ne": 0.5, "auc": 0.73}
    assert not update_best(progress, auc)
    assert progress.evaluations_since_best == 1


def test_learning_rates_fall_each_time_a_metric_stands_still() -> None:
    plateau = PlateauConfig(metric="log_loss", patience=2, factor=0.5, least_factor=0.2)
    progress, factors = Progress(), []
    for value in (0.6, 0.5, 0.55, 0.5, 0.5, 0.7, 0.4, math.nan, 0.4, 0.4, 0.4):
        progress.evaluation = {"log_loss": value}
        follow_plateau(progress, plateau)
        factors.append(progress.plateau_factor)
    assert factors == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.2, 0.2, 0.2]
    assert progress.plateau_value == 0.4


def test_small_gains_are_none() -> None:
    progress = Progress()
    for value in (0.7, 0.705):
        progress.evaluation = {"auc": value}
        follow_plateau(progress, PlateauConfig(min_delta=0.01))
    assert (progress.plateau_factor, progress.plateau_value) == (0.1, 0.7)
