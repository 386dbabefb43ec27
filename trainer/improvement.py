"""Whether an evaluation is better than those before: the best one, patience, learning rates on a plateau."""

from __future__ import annotations

import math

from trainer.checkpoint import Progress
from trainer.config import EarlyStoppingConfig, PlateauConfig
from trainer.config.metrics import metric_of


def use_metric(progress: Progress, metric: str) -> None:
    """Compare by another metric where a resumed run asks for one: the best stays, valued anew."""
    if progress.best_metric not in (None, metric):
        value = (progress.best_metrics or {}).get(metric)
        progress.best_value = None if value is None or math.isnan(value) else value
        progress.evaluations_since_best = 0
    progress.best_metric = metric


def update_best(progress: Progress, stopping: EarlyStoppingConfig) -> bool:
    """Compare the newest evaluation with the best and count patience; return whether it is the best."""
    use_metric(progress, stopping.metric)
    value = (progress.evaluation or {}).get(stopping.metric, math.nan)
    if _gain(value, progress.best_value, stopping.metric) > stopping.min_delta:
        progress.best_step, progress.best_value = progress.step, value
        progress.best_metrics, progress.evaluations_since_best = progress.evaluation, 0
        return True
    progress.evaluations_since_best += 1
    progress.finished = progress.evaluations_since_best >= stopping.patience
    return False


def follow_plateau(progress: Progress, plateau: PlateauConfig) -> None:
    """Compare the newest evaluation with the best, and lower the factor where patience is at its end."""
    value = (progress.evaluation or {}).get(plateau.metric, math.nan)
    if _gain(value, progress.plateau_value, plateau.metric) > plateau.min_delta:
        progress.plateau_value, progress.plateau_evaluations = value, 0
        return
    progress.plateau_evaluations += 1
    if progress.plateau_evaluations >= plateau.patience:
        progress.plateau_evaluations = 0
        progress.plateau_factor = max(plateau.least_factor, progress.plateau_factor * plateau.factor)


def _gain(value: float, best: float | None, metric: str) -> float:
    """Return by how much a metric is better than the best so far."""
    if math.isnan(value):
        return -math.inf
    if best is None:
        return math.inf
    return value - best if metric_of(metric).better == "high" else best - value
