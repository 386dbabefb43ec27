"""Whether an evaluation is better than those before: the best one, patience, learning rates on a plateau."""

from __future__ import annotations

import math

from trainer.checkpoint import Progress
from trainer.config import EarlyStoppingConfig, PlateauConfig
from trainer.config.metrics import METRICS, metric_of, split_name
from trainer.errors import ConfigError


def use_metric(progress: Progress, metric: str) -> None:
    """Compare by another metric where a resumed run asks for one: the best stays, valued anew."""
    if progress.best_metric not in (None, metric):
        value = (progress.best_metrics or {}).get(metric)
        progress.best_value = None if value is None or math.isnan(value) else value
        progress.evaluations_since_best = 0
    progress.best_metric = metric


def update_best(progress: Progress, stopping: EarlyStoppingConfig) -> bool:
    """Compare the newest evaluation with the best and count patience; return whether it is the best.

    Raises:
        ConfigError: the evaluation does not have the metric.
    """
    use_metric(progress, stopping.metric)
    value = _value(progress, stopping.metric, "train.early_stopping.metric")
    if _gain(value, progress.best_value, stopping.metric) > stopping.min_delta:
        progress.best_step, progress.best_value = progress.step, value
        progress.best_metrics, progress.evaluations_since_best = progress.evaluation, 0
        return True
    progress.evaluations_since_best += 1
    progress.finished = progress.evaluations_since_best >= stopping.patience
    return False


def follow_plateau(progress: Progress, plateau: PlateauConfig) -> None:
    """Compare the newest evaluation with the best, and lower the factor where patience is at its end.

    Raises:
        ConfigError: the evaluation does not have the metric.
    """
    value = _value(progress, plateau.metric, "train.plateau.metric")
    if _gain(value, progress.plateau_value, plateau.metric) > plateau.min_delta:
        progress.plateau_value, progress.plateau_evaluations = value, 0
        return
    progress.plateau_evaluations += 1
    if progress.plateau_evaluations >= plateau.patience:
        progress.plateau_evaluations = 0
        progress.plateau_factor = max(plateau.least_factor, progress.plateau_factor * plateau.factor)


def _value(progress: Progress, metric: str, where: str) -> float:
    """Return what evaluations are compared by, NaN where the rows do not define it.

    A metric that no evaluation has is another matter: patience would run out while the run improves.
    """
    evaluation: dict[str, float] = progress.evaluation or {}
    if metric in evaluation:
        return evaluation[metric]
    known = [name for name in evaluation if split_name(name)[0] in METRICS]
    allowed = [name for name in known if metric_of(name).better != "one"]
    near = [name for name in allowed if name.partition("@")[0] == metric.partition("@")[0]]
    raise ConfigError(
        "evaluations are compared by a metric that those of this data set do not have",
        where=where,
        got=metric,
        allowed=allowed,
        fixes=[f"{where}: {name}" for name in near[-1:]],
    )


def _gain(value: float, best: float | None, metric: str) -> float:
    """Return by how much a metric is better than the best so far."""
    if math.isnan(value):
        return -math.inf
    if best is None:
        return math.inf
    return value - best if metric_of(metric).better == "high" else best - value
