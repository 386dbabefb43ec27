"""What a loss is without a model: that of the best score that is the same for every row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn

from trainer.losses.pointwise import PointwiseLoss

_LARGEST_LOGIT = 40.0
_GOLDEN = (math.sqrt(5) - 1) / 2


class Prior(Protocol):
    """What the logged loss of a task is compared with; a task without one has no such comparison."""

    def best_constant(self, mean_labels_T: Sequence[float]) -> float:
        """Return the loss of the best score that is the same for every row."""
        ...

    def untrained(self, mean_labels_T: Sequence[float]) -> float:
        """Return the loss of scores of 0."""
        ...


class BinaryPrior:
    """The prior of binary cross-entropy and its forms: with label smoothing, weights of positives, focal.

    Plain, it is the entropy of the base rate. The loss itself is asked, so a new form needs nothing here.

    Args:
        loss: of the task.
    """

    def __init__(self, loss: PointwiseLoss) -> None:
        self._loss = loss
        # Asked for at every log.
        self._at_zero = (self._of_logit(0.0, 0.0), self._of_logit(0.0, 1.0))

    def best_constant(self, mean_labels_T: Sequence[float]) -> float:
        """Return the least loss of one logit for every row, the mean over tasks."""
        return sum(self._least(mean) for mean in mean_labels_T) / len(mean_labels_T)

    def untrained(self, mean_labels_T: Sequence[float]) -> float:
        """Return the loss of logits of 0, the mean over tasks."""
        mean, (of_0, of_1) = sum(mean_labels_T) / len(mean_labels_T), self._at_zero
        return (1 - mean) * of_0 + mean * of_1

    def _least(self, mean_label: float) -> float:
        """Return the minimum over logits by golden-section search; the loss has one valley."""
        low, high = -_LARGEST_LOGIT, _LARGEST_LOGIT
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        at_left, at_right = self._of_logit(left, mean_label), self._of_logit(right, mean_label)
        while high - low > 1e-4:
            if at_left <= at_right:
                high, right, at_right = right, left, at_left
                left = high - _GOLDEN * (high - low)
                at_left = self._of_logit(left, mean_label)
            else:
                low, left, at_left = left, right, at_right
                right = low + _GOLDEN * (high - low)
                at_right = self._of_logit(right, mean_label)
        return min(at_left, at_right)

    @torch.no_grad()
    def _of_logit(self, logit: float, mean_label: float) -> float:
        """Return the mean loss per weight of rows of this mean label that all get one logit."""
        # In float32 the small losses of rare labels would be differences of large numbers.
        logits_BT = torch.full((2, 1), logit, dtype=torch.float64)
        weights_B = torch.tensor([1 - mean_label, mean_label], dtype=torch.float64)
        loss = self._loss(logits_BT, torch.tensor([[0.0], [1.0]], dtype=torch.float64), weights_B)
        return 2 * float(loss)


def prior_of(loss: nn.Module) -> Prior | None:
    """Return the prior of a loss; None where there is none to compare with: ratings, or several tasks."""
    if not isinstance(loss, PointwiseLoss) or len(loss.heads) > 1 or loss.heads[0].is_rating:
        return None
    return BinaryPrior(loss)
