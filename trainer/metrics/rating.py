"""Errors of predicted numbers, such as ratings."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from trainer.metrics.binary import Floats, running_sums


class _Sum(IntEnum):
    """Sums over the rows so far; all but the last are of weight x term."""

    WEIGHT = 0
    SQUARED_ERROR = 1
    ABSOLUTE_ERROR = 2
    PREDICTED = 3
    LABEL = 4
    SQUARED_LABEL = 5
    ROWS = 6


class RatingSums:
    """Sums from which the errors are computed; the same to the last bit in any number of parts.

    Args:
        columns: sets of weights (C) that the metrics are computed for.
        state: sums so far, as `state` has them.

    Attributes:
        state: float64 [7, C].
    """

    def __init__(self, columns: int = 1, state: Floats | None = None) -> None:
        self.state: Floats = np.zeros((len(_Sum), columns)) if state is None else state

    def add(self, predictions_N: Floats, labels_N: Floats, weights_NC: Floats) -> None:
        """Add the rows that come next.

        Args:
            predictions_N: predicted numbers.
            labels_N: true ones.
            weights_NC: one column for each set of weights.
        """
        error_N = predictions_N - labels_N
        terms = (np.ones_like(error_N), error_N**2, np.abs(error_N), predictions_N, labels_N, labels_N**2)
        state = self.state.copy()
        for number, term_N in enumerate(terms):
            state[number] = running_sums(self.state[number], weights_NC * term_N[:, None])[-1]
        state[_Sum.ROWS] += (weights_NC > 0).sum(axis=0)
        self.state = state

    def metrics(self) -> dict[str, Floats]:
        """Return each metric of each set of weights, [C]."""
        state = self.state
        with np.errstate(invalid="ignore", divide="ignore"):
            squared, absolute, predicted, label, squared_label = state[1:6] / state[_Sum.WEIGHT]
            variance = squared_label - label**2
            # Equal labels leave what rounding does of their variance.
            explained = np.where(variance > 1e-12 * squared_label, 1 - squared / variance, np.nan)
        return {
            "rmse": np.sqrt(squared),
            "mae": absolute,
            "r2": explained,
            "mean_prediction": predicted,
            "mean_label": label,
            "rows": state[_Sum.ROWS],
        }


def rating_metrics(predictions_N: Floats, labels_N: Floats, weights_N: Floats) -> dict[str, float]:
    """Return RMSE, MAE and R2 of rows that are all there.

    Args:
        predictions_N: predicted numbers, float64 [N].
        labels_N: true ones, float64 [N].
        weights_N: sample weights >= 0, float64 [N]; rows of weight 0 do not count.

    Returns:
        `rmse`, `mae`; `r2` = 1 - squared error / variance of the labels, NaN where these are all equal;
        `mean_prediction`, `mean_label`; `rows`. What no row defines is NaN.
    """
    counted = weights_N > 0
    sums = RatingSums()
    sums.add(predictions_N[counted], labels_N[counted], weights_N[counted][:, None])
    found = {name: float(values_C[0]) for name, values_C in sums.metrics().items()}
    return {**found, "rows": int(counted.sum())}
