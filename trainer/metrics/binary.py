"""Metrics of a binary task from logits, exact over all rows given."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def binary_metrics(logits_N: Floats, labels_N: Floats, weights_N: Floats) -> dict[str, float]:
    """Return AUC, log loss, NE, calibration, accuracy and base rate.

    Args:
        logits_N: scores before the sigmoid, float64 [N].
        labels_N: 0 or 1, float64 [N].
        weights_N: sample weights >= 0, float64 [N]; rows of weight 0 do not count.

    Returns:
        `auc`; `log_loss` in nats; `ne` = log loss / entropy of the base rate; `calibration` = sum of
        predictions / sum of labels; `accuracy` at probability 0.5; `base_rate`; `rows`. A value that the
        rows do not define (AUC, NE and calibration of one class alone) is NaN, and so are all but the base
        rate when a logit is NaN.

    Source: NE and calibration as in He et al. 2014, Practical Lessons from Predicting Clicks on Ads.
    """
    counted = weights_N > 0
    logits, labels, weights = logits_N[counted], labels_N[counted], weights_N[counted]
    total = weights.sum()
    base_rate = float((weights * labels).sum() / total) if logits.size else math.nan
    # Sorting puts NaN somewhere and comparing calls it false: AUC and accuracy would look like real ones.
    if logits.size == 0 or np.isnan(logits).any():
        names = ("auc", "log_loss", "ne", "calibration", "accuracy")
        return {**dict.fromkeys(names, math.nan), "base_rate": base_rate, "rows": int(logits.size)}
    # log(1 + e^x) - y x is the log loss without the overflow of log(sigmoid(x)).
    log_loss = float((weights * (np.logaddexp(0.0, logits) - labels * logits)).sum() / total)
    predicted = float((weights * sigmoid(logits)).sum() / total)
    right = (logits >= 0) == (labels > 0.5)
    return {
        "auc": roc_auc(logits, labels, weights),
        "log_loss": log_loss,
        "ne": _ratio(log_loss, _entropy(base_rate)),
        "calibration": _ratio(predicted, base_rate),
        "accuracy": float((weights * right).sum() / total),
        "base_rate": base_rate,
        "rows": int(logits.size),
    }


def roc_auc(scores_N: Floats, labels_N: Floats, weights_N: Floats | None = None) -> float:
    """Return the area under the ROC curve, ties counted half; NaN where a class has no weight.

    Args:
        scores_N: any scores, [N].
        labels_N: 0 or 1, [N].
        weights_N: sample weights, [N]; default 1.

    Source: the Mann-Whitney form, sum over positives of the negative weight below plus half of that at the
    same score. Cost: one sort.
    """
    weights = np.ones_like(scores_N, dtype=np.float64) if weights_N is None else weights_N
    _, group = np.unique(scores_N, return_inverse=True)
    positive = np.bincount(group, weights=weights * labels_N)
    negative = np.bincount(group, weights=weights * (1.0 - labels_N))
    pairs = positive.sum() * negative.sum()
    below = np.cumsum(negative) - negative
    return float((positive * (below + 0.5 * negative)).sum() / pairs) if pairs > 0 else math.nan


def sigmoid(logits: Floats) -> Floats:
    """Return probabilities of logits of any size and shape."""
    # exp of a negative number only, so that no logit overflows.
    small = np.exp(-np.abs(logits))
    result: Floats = np.where(logits >= 0, 1.0 / (1.0 + small), small / (1.0 + small))
    return result


def _entropy(rate: float) -> float:
    if not 0.0 < rate < 1.0:
        return 0.0
    return -(rate * math.log(rate) + (1.0 - rate) * math.log(1.0 - rate))


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else math.nan
