"""The true probabilities behind the labels, and the best that any model can make of them.

A probability is the middle of one of `LEVELS` equal steps between 0 and 1, and labels are drawn from exactly
that. So the rows at each level are all that the best reachable metrics depend on: they are exact, they are
whole numbers that tasks add up in any order, and no row has to be kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.synthesis.blocks import make_block
from jobs.synthesis.draws import Floats
from jobs.synthesis.shape import Shape

LEVELS = 65_536
_PILOT_BLOCKS = 8
_FIRST_PILOT_BLOCK = 2**40  # far behind all rows, so that no row is one of the pilot's


@dataclass(frozen=True)
class Truth:
    """Turns the signal of a row into its probability: sigmoid(bias + scale * signal)."""

    bias: float
    scale: float

    def levels(self, signal: Floats) -> NDArray[np.int64]:
        """Return the level of each row's probability; `probabilities` says what it means."""
        shares = _sigmoid(self.bias + self.scale * signal) * LEVELS
        return np.minimum(shares.astype(np.int64), LEVELS - 1)


@dataclass(frozen=True)
class Best:
    """What the true probabilities reach on the rows, in expectation over the labels.

    Attributes:
        auc: expected pairs that the true probability ranks rightly (ties half) over expected pairs of a
            positive and a negative row; 0.5 where no such pair is possible.
        log_loss: mean entropy of the labels in nats: no prediction has a lower expected log loss.
        ne: the same over the entropy of the mean probability.
        positive_rate: mean probability.
    """

    auc: float
    log_loss: float
    ne: float
    positive_rate: float

    def text(self) -> str:
        """Return the metrics as people read them."""
        return f"AUC {self.auc:.4f}, log loss {self.log_loss:.4f}, NE {self.ne:.4f}"


def probabilities(levels: NDArray[np.int64]) -> Floats:
    """Return the probabilities of levels."""
    return (levels + 0.5) / LEVELS


def fit_truth(shape: Shape) -> Truth:
    """Find the bias and scale that give the wanted spread of the logit and share of positives.

    They are fitted on a pilot of rows that are not among those to be written; the share of positives is met
    within the pilot's sampling error, about 0.001.
    """
    signal = np.concatenate(
        [make_block(shape, _FIRST_PILOT_BLOCK + number).signal for number in range(_PILOT_BLOCKS)]
    )
    scale = shape.signal / max(float(signal.std()), 1e-9)
    low, high = -60.0 - scale * float(signal.max()), 60.0 - scale * float(signal.min())
    for _ in range(60):
        middle = (low + high) / 2
        if _sigmoid(middle + scale * signal).mean() < shape.positive_rate:
            low = middle
        else:
            high = middle
    return Truth((low + high) / 2, scale)


def best_reachable(rows: NDArray[np.int64]) -> Best:
    """Return the best metrics on the rows counted by level.

    Args:
        rows: number of rows at each level, [LEVELS].
    """
    p = probabilities(np.arange(LEVELS))
    positives, negatives, varying = rows * p, rows * (1 - p), rows * p * (1 - p)
    # No row makes a pair with itself, which the products of sums would count.
    pairs = positives.sum() * negatives.sum() - varying.sum()
    below = np.cumsum(negatives) - negatives
    right = (positives * below).sum() + (positives * negatives - varying).sum() / 2
    rate = positives.sum() / rows.sum()
    log_loss = (rows * _entropy(p)).sum() / rows.sum()
    return Best(
        auc=float(right / pairs) if pairs > 0 else 0.5,
        log_loss=float(log_loss),
        ne=float(log_loss / _entropy(rate)),
        positive_rate=float(rate),
    )


def _sigmoid(logit: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-np.clip(logit, -700, 700)))


def _entropy(p: Floats) -> Floats:
    entropy: Floats = -(p * np.log(p) + (1 - p) * np.log1p(-p))
    return entropy
