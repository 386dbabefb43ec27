"""What the metrics of the validation split tell, one evaluation alone and several in a row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from trainer.guard.findings import Finding

LEAK_AUC = 0.99
CALIBRATION_RATIO = 1.25
# An AUC is near 0.5 within the first, or within two standard errors but never beyond the second.
_NEAR, _NEAR_AT_MOST = 0.01, 0.03
_ERRORS = 4.0
# Share of the least log loss by which it must have risen before that is over-fitting.
_LEAST_RISE = 0.005


def metric_findings(
    metrics: Mapping[str, Any], step: int, calibrated: bool, task: str | None = None
) -> list[Finding]:
    """Return what is wrong with the metrics of one evaluation of a binary task.

    Args:
        metrics: `auc`, `ne`, `calibration`, `base_rate` and `rows`; what is missing or NaN is not judged.
        step: steps done.
        calibrated: whether predictions should be probabilities of this split's labels.
        task: its name, where there are several: it stands before the metrics, `<task>/auc`.
    """
    before = "" if task is None else f"{task}/"
    auc, ne, calibration, rate, rows = (
        _number(metrics, before + name) for name in ("auc", "ne", "calibration", "base_rate", "rows")
    )
    if not rows > 0:
        return []
    # Of one task alone the manifest has told it before the first step.
    if task is not None and rate in (0, 1):
        what = f"every row of split 'valid' that counts for task {task!r} has label {rate:.0f}"
        what += f" ({rows:,.0f} rows)"
        return [Finding("label_constant", step, what, (f"{task}/valid",))]
    if not 0 < rate < 1:
        return []
    of = f"of {rows:,.0f} validation rows" + ("" if task is None else f" of task {task!r}")
    subjects = ("valid",) if task is None else (task,)
    found = _auc(auc, auc_error(rate * rows, (1 - rate) * rows), of, step, subjects)
    # Scores that tell nothing, or the contrary, need no second word on their size.
    if not calibrated or any(finding.code.endswith("_half") for finding in found):
        return found
    if ne >= 1:
        what = f"NE is {ne:.4f} {of}: worse than the base rate ({rate:.3%}) for every row"
        found.append(Finding("ne_above_1", step, what, subjects))
    off = abs(math.log(calibration)) if calibration > 0 else 0.0
    if off > max(math.log(CALIBRATION_RATIO), _ERRORS / math.sqrt(rate * rows)):
        predicted = calibration * rate
        what = f"calibration is {calibration:.3f} {of}: {predicted:.3%} predicted, {rate:.3%} have label 1"
        odds = predicted / max(1 - predicted, 1e-9) * (1 - rate) / rate
        kept = f"if training lost negatives before `prepare`, about {1 / odds:.2%} of them were kept"
        found.append(Finding("calibration_off", step, what, subjects, (kept,) if odds > 1 else ()))
    return found


def rating_findings(metrics: Mapping[str, Any], step: int, task: str | None = None) -> list[Finding]:
    """Return what is wrong with the metrics of one evaluation of a rating.

    Args:
        metrics: `r2` and `rows`; what is missing or NaN is not judged.
        step: steps done.
        task: its name, where there are several.
    """
    before = "" if task is None else f"{task}/"
    r2, rows = (_number(metrics, before + name) for name in ("r2", "rows"))
    if not (rows > 0 and r2 <= 0):
        return []
    of = "" if task is None else f" of task {task!r}"
    what = f"R2 is {r2:.4f} of {rows:,.0f} validation rows{of}: no better than their mean for every row"
    return [Finding("r2_below_0", step, what, ("valid",) if task is None else (task,))]


def auc_error(positives: float, negatives: float) -> float:
    """Return the standard error of the AUC of scores that tell nothing.

    Source: Mann and Whitney 1947, the variance of U / (positives * negatives).
    """
    return math.sqrt((positives + negatives + 1) / (12 * positives * negatives))


def _auc(auc: float, error: float, of: str, step: int, subjects: tuple[str, ...]) -> list[Finding]:
    if auc == 0.5:
        what = f"AUC is exactly 0.5 {of}: every row gets the same score"
        return [Finding("auc_near_half", step, what, subjects)]
    if abs(auc - 0.5) <= min(max(_NEAR, 2 * error), _NEAR_AT_MOST):
        what = f"AUC is {auc:.4f} {of}; scores by chance give 0.5 within {2 * error:.4f}"
        return [Finding("auc_near_half", step, what, subjects)]
    if auc < 0.5 - max(_NEAR, _ERRORS * error):
        what = f"AUC is {auc:.4f} {of}: rows of label 0 get the higher scores"
        return [Finding("auc_below_half", step, what, subjects)]
    if auc >= LEAK_AUC:
        return [Finding("auc_near_1", step, f"AUC is {auc:.4f} {of}: too good to be true?", subjects)]
    return []


@dataclass
class GapWatch:
    """Loss of training and log loss or RMSE of validation, evaluation after evaluation.

    Attributes:
        patience: evaluations in a row that must part.
        train: of the steps before the newest evaluation.
        valid: of the newest evaluation.
        best: least one so far.
        best_step: its step.
        apart: evaluations in a row at which training fell and validation rose.
    """

    patience: int
    train: float | None = None
    valid: float | None = None
    best: float = math.inf
    best_step: int = 0
    apart: int = 0

    @property
    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on in the same way."""
        return {
            key: value
            for key, value in asdict(self).items()
            if key != "patience" and value not in (None, math.inf)
        }

    def evaluated(
        self, step: int, train: float | None, valid: float, metric: str = "log loss"
    ) -> list[Finding]:
        """Compare an evaluation with the one before.

        Args:
            step: steps done.
            train: mean training loss since the evaluation before; None where nothing was logged.
            valid: log loss of the validation split, or another metric that should fall.
            metric: its name.
        """
        if train is None or math.isnan(valid):
            return []
        before_train, before_valid = self.train, self.valid
        self.train, self.valid = train, valid
        if before_train is not None and before_valid is not None:
            parts = train < before_train and valid > before_valid
            self.apart = self.apart + 1 if parts else 0
        if valid < self.best:
            self.best, self.best_step = valid, step
        if self.apart < self.patience or valid < self.best * (1 + _LEAST_RISE):
            return []
        what = (
            f"over {self.apart} evaluations in a row the training loss fell (now {train:.4f}) while the "
            f"validation {metric} rose: {valid:.4f}, {valid / self.best - 1:.1%} above its best of "
            f"{self.best:.4f} at step {self.best_step:,}"
        )
        fixes = (f"train.max_steps: {self.best_step}, where the validation {metric} was best",)
        return [Finding("overfitting", step, what, ("valid",), fixes)]


def _number(metrics: Mapping[str, Any], name: str) -> float:
    value = metrics.get(name)
    return float(value) if isinstance(value, (int, float)) else math.nan
