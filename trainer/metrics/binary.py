"""Metrics of rows with a label and a logit, exact over all rows, however many come at a time."""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
CALIBRATION_BINS = 15


class _Sum(IntEnum):
    """Sums over the rows so far; the first eight of them are of weight x term."""

    WEIGHT = 0
    POSITIVE = 1
    NEGATIVE = 2
    LOG_LOSS = 3
    PREDICTED = 4
    RIGHT = 5
    SQUARED_ERROR = 6
    ABSOLUTE_ERROR = 7
    TIE_POSITIVE = 8
    """Positive weight above the newest run of equal logits, and the negative weight there."""
    TIE_NEGATIVE = 9
    PAIRS = 10
    """Numerator of the AUC over the runs above."""
    PRECISION = 11
    """Numerator of the average precision over them."""
    LAST_LOGIT = 12
    ROWS = 13
    NOT_A_NUMBER = 14


_TERMS = 8


class BinarySums:
    """Sums from which the metrics of rows are computed.

    The rows come by falling logit, in any number of parts. Every sum is added up row by row, so that parts of
    any size give the same to the last bit.

    Args:
        columns: sets of weights (C) that the metrics are computed for, the resamples of a bootstrap for
            instance.
        bins: intervals of equal width that ECE cuts probabilities into.
        state: sums so far, as `state` has them.

    Attributes:
        state: float64 [15 + bins, C].
    """

    def __init__(self, columns: int = 1, bins: int = CALIBRATION_BINS, state: Floats | None = None) -> None:
        self._bins = bins
        self.state: Floats = np.zeros((len(_Sum) + bins, columns)) if state is None else state

    def add(self, logits_N: Floats, labels_N: Floats, weights_NC: Floats) -> None:
        """Add the rows that come next.

        Args:
            logits_N: falling, none above those added before; NaN last.
            labels_N: 0 to 1.
            weights_NC: one column for each set of weights.
        """
        if not len(logits_N):
            return
        state = self.state.copy()
        state[_Sum.ROWS] += (weights_NC > 0).sum(axis=0)
        state[_Sum.NOT_A_NUMBER] += (weights_NC[np.isnan(logits_N)] > 0).sum(axis=0)
        probabilities_N, terms = sigmoid(logits_N), _terms(logits_N, labels_N)
        ends = np.flatnonzero(logits_N[1:] != logits_N[:-1]) + 1
        if self.state[_Sum.ROWS].any() and logits_N[0] != self.state[_Sum.LAST_LOGIT, 0]:
            ends = np.concatenate([[0], ends])
        kept: dict[int, Floats] = {}
        for number, term_N in enumerate(terms):
            through = running_sums(self.state[number], weights_NC * term_N[:, None])
            state[number] = through[-1]
            if number in (_Sum.POSITIVE, _Sum.NEGATIVE, _Sum.PREDICTED):
                kept[number] = through
        positive, negative = kept[_Sum.POSITIVE], kept[_Sum.NEGATIVE]
        self._close(state, positive[ends], negative[ends])
        state[_Sum.LAST_LOGIT] = logits_N[-1]
        # Rows of the bins from b up come before all others: what is over and above the labels by then.
        excess = kept[_Sum.PREDICTED] - positive
        through_bin = np.searchsorted(
            -_bin_of(probabilities_N, self._bins), -np.arange(self._bins), side="right"
        )
        reached = through_bin > 0
        state[len(_Sum) :][reached] = excess[through_bin[reached]]
        self.state = state

    def metrics(self) -> dict[str, Floats]:
        """Return each metric of each set of weights, [C]."""
        state = self.state.copy()
        self._close(state, state[[_Sum.POSITIVE]], state[[_Sum.NEGATIVE]])
        total, positive, negative = state[_Sum.WEIGHT], state[_Sum.POSITIVE], state[_Sum.NEGATIVE]
        excess_of_bins = np.abs(np.diff(state[len(_Sum) :], axis=0, append=0.0)).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            rate, log_loss = positive / total, state[_Sum.LOG_LOSS] / total
            found = {
                "auc": _defined(state[_Sum.PAIRS] / (positive * negative)),
                "pr_auc": _defined(state[_Sum.PRECISION] / positive),
                "log_loss": log_loss,
                "ne": _defined(log_loss / _entropy(rate)),
                "calibration": _defined(state[_Sum.PREDICTED] / positive),
                "ece": excess_of_bins / total,
                "accuracy": state[_Sum.RIGHT] / total,
                "rmse": np.sqrt(state[_Sum.SQUARED_ERROR] / total),
                "mae": state[_Sum.ABSOLUTE_ERROR] / total,
            }
        # Sorting puts NaN somewhere and comparing calls it false: AUC and accuracy would look like real ones.
        unknown = state[_Sum.NOT_A_NUMBER] > 0
        found = {name: np.where(unknown, math.nan, values_C) for name, values_C in found.items()}
        return {**found, "base_rate": rate, "rows": state[_Sum.ROWS]}

    @staticmethod
    def _close(state: Floats, positive_EC: Floats, negative_EC: Floats) -> None:
        """Count the runs of equal logits that end where so much positive and negative weight was seen."""
        above_P = np.concatenate([state[[_Sum.TIE_POSITIVE]], positive_EC])
        above_N = np.concatenate([state[[_Sum.TIE_NEGATIVE]], negative_EC])
        pairs = np.diff(above_N, axis=0) * (above_P[:-1] + above_P[1:]) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = above_P[1:] / (above_P[1:] + above_N[1:])
        gained = np.nan_to_num(np.diff(above_P, axis=0) * precision)
        state[_Sum.PAIRS] = running_sums(state[_Sum.PAIRS], pairs)[-1]
        state[_Sum.PRECISION] = running_sums(state[_Sum.PRECISION], gained)[-1]
        state[_Sum.TIE_POSITIVE], state[_Sum.TIE_NEGATIVE] = above_P[-1], above_N[-1]


def binary_metrics(
    logits_N: Floats, labels_N: Floats, weights_N: Floats, bins: int = CALIBRATION_BINS
) -> dict[str, float]:
    """Return the metrics of rows that are all there.

    Args:
        logits_N: scores before the sigmoid, float64 [N].
        labels_N: 0 or 1, float64 [N].
        weights_N: sample weights >= 0, float64 [N]; rows of weight 0 do not count.
        bins: intervals of equal width for `ece`.

    Returns:
        `auc`, equal scores counted half; `pr_auc`, the average precision; `log_loss` in nats; `ne` = log loss
        / entropy of the base rate; `calibration` = sum of predictions / sum of labels; `ece`, the expected
        calibration error; `accuracy` at probability 0.5; `rmse` and `mae` of probabilities against labels;
        `base_rate`; `rows`. A value that the rows do not define (AUC, NE and calibration of one class alone)
        is NaN, and so are all but the base rate when a logit is NaN.

    Source: NE and calibration as in He et al. 2014, Practical Lessons from Predicting Clicks on Ads; ECE as
    in Guo et al. 2017, arXiv:1706.04599, of the probability of label 1; average precision and its treatment
    of equal scores as in scikit-learn, the sum over scores of recall gained x precision.
    """
    counted = np.flatnonzero(weights_N > 0)
    order = counted[np.argsort(-logits_N[counted], kind="stable")]
    sums = BinarySums(bins=bins)
    sums.add(logits_N[order], labels_N[order], weights_N[order][:, None])
    found = {name: float(values_C[0]) for name, values_C in sums.metrics().items()}
    return {**found, "rows": len(order)}


def roc_auc(scores_N: Floats, labels_N: Floats, weights_N: Floats | None = None) -> float:
    """Return the area under the ROC curve, ties counted half; NaN where a class has no weight.

    Args:
        scores_N: any scores, [N].
        labels_N: 0 or 1, [N].
        weights_N: sample weights, [N]; default 1.

    Source: the Mann-Whitney form, sum over negatives of the positive weight above plus half of that at the
    same score. Cost: one sort.
    """
    weights = np.ones_like(scores_N, dtype=np.float64) if weights_N is None else weights_N
    return binary_metrics(scores_N, labels_N, weights)["auc"]


def sigmoid(logits: Floats) -> Floats:
    """Return probabilities of logits of any size and shape."""
    # exp of a negative number only, so that no logit overflows.
    small = np.exp(-np.abs(logits))
    result: Floats = np.where(logits >= 0, 1.0 / (1.0 + small), small / (1.0 + small))
    return result


def _terms(logits_N: Floats, labels_N: Floats) -> tuple[Floats, ...]:
    """Return what each row of weight 1 adds to the first sums."""
    probabilities_N = sigmoid(logits_N)
    error_N = probabilities_N - labels_N
    # log(1 + e^x) - y x is the log loss without the overflow of log(sigmoid(x)).
    with np.errstate(invalid="ignore"):  # NaN among the logits
        log_loss_N = np.logaddexp(0.0, logits_N) - labels_N * logits_N
    right_N = ((logits_N >= 0) == (labels_N > 0.5)).astype(np.float64)
    one_N = np.ones_like(labels_N)
    terms = (one_N, labels_N, 1 - labels_N, log_loss_N, probabilities_N, right_N, error_N**2, np.abs(error_N))
    assert len(terms) == _TERMS
    return terms


def running_sums(before_C: Floats, added_NC: Floats) -> Floats:
    """Return [N + 1, C] running sums, one row after another, from what was there before."""
    through: Floats = np.cumsum(np.concatenate([before_C[None], added_NC]), axis=0)
    return through


def _bin_of(probabilities_N: Floats, bins: int) -> NDArray[np.int64]:
    """Return the bin (i / bins, (i + 1) / bins] of each probability; 0 is in the first, NaN behind it."""
    number_N = np.clip(np.ceil(probabilities_N * bins) - 1, 0, bins - 1)
    whole_N: NDArray[np.int64] = np.nan_to_num(number_N, nan=-1).astype(np.int64)
    return whole_N


def _entropy(rate_C: Floats) -> Floats:
    """Return the log loss of predicting the base rate."""
    entropy_C: Floats = -(rate_C * np.log(rate_C) + (1 - rate_C) * np.log1p(-rate_C))
    return entropy_C


def _defined(values_C: Floats) -> Floats:
    """Return NaN in place of what division by 0 gives."""
    return np.where(np.isfinite(values_C), values_C, math.nan)
