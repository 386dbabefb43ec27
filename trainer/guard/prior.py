"""What a loss is without a model: that of the best score that is the same for every row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn

from trainer.item_sampling import ItemNegatives
from trainer.losses.pointwise import PointwiseLoss
from trainer.losses.ranking import Objective

_LARGEST_LOGIT = 40.0
_GOLDEN = (math.sqrt(5) - 1) / 2


class Prior(Protocol):
    """What the logged loss of a task is compared with; a task without one has no such comparison.

    Attributes:
        least_gain: share of that loss that a model must gain to count as learning.
    """

    least_gain: float

    def best_constant(self, mean_labels_T: Sequence[float]) -> float:
        """Return the loss of the best score that is the same for every row."""
        ...

    def untrained(self, mean_labels_T: Sequence[float]) -> float:
        """Return the loss of scores of 0."""
        ...

    def told(self, mean_labels_T: Sequence[float]) -> str:
        """Return the loss of the best constant in words."""
        ...


class BinaryPrior:
    """The prior of binary cross-entropy and its forms: with label smoothing, weights of positives, focal.

    Plain, it is the entropy of the base rate. The loss itself is asked, so a new form needs nothing here.

    Args:
        loss: of the task.
    """

    least_gain = 1e-4

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

    def told(self, mean_labels_T: Sequence[float]) -> str:
        """Return the loss of the best logit, and the mean labels."""
        shares = ", ".join(f"{label:.2%}" for label in mean_labels_T)
        return (
            f"one score for every row would have {self.best_constant(mean_labels_T):.6g} "
            f"({shares} have label 1)"
        )

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


class FixedPrior:
    """The prior of a loss that the labels of the rows do not change.

    Args:
        constant: least loss of scores that are all the same.
        untrained: loss of scores of 0; default the same.
        whose: what has that least loss.
        least_gain: share of it that a model must gain.
    """

    def __init__(
        self, constant: float, whose: str, untrained: float | None = None, least_gain: float = 0.01
    ) -> None:
        self._constant, self._whose, self.least_gain = constant, whose, least_gain
        self._untrained = constant if untrained is None else untrained

    def best_constant(self, mean_labels_T: Sequence[float]) -> float:  # noqa: ARG002
        """Return the least loss of scores that are all the same."""
        return self._constant

    def untrained(self, mean_labels_T: Sequence[float]) -> float:  # noqa: ARG002
        """Return the loss of scores of 0."""
        return self._untrained

    def told(self, mean_labels_T: Sequence[float]) -> str:  # noqa: ARG002
        """Return whose loss that is."""
        return f"{self._whose} would have {self._constant:.6g}"


def prior_of(loss: nn.Module) -> Prior | None:
    """Return the prior of a loss; None where there is none to compare with, as of several tasks.

    Squared errors of ratings are in units of their variance, so that their mean has 1 over all training rows;
    with a Huber limit it has less, and 1 is a bound that only what is worse than the mean exceeds.
    """
    if not isinstance(loss, PointwiseLoss) or len(loss.heads) > 1:
        return None
    if loss.heads[0].is_rating:
        return FixedPrior(loss.heads[0].weight, "the mean rating for every row", least_gain=1e-4)
    return BinaryPrior(loss)


def item_prior(objective: Objective, negatives: ItemNegatives, num_items: int) -> Prior | None:
    """Return the prior of queries' losses: that of scores that are the same for all items.

    With n negatives that count, `bpr` has ln 2, `sampled_softmax` ln(1 + n), `softmax` the logarithm of all
    items, and `pointwise` n + 1 times the entropy of a share of 1 / (n + 1).

    Args:
        objective: of the model.
        negatives: that are drawn.
        num_items: of the table.

    Returns:
        None where it is not known: with the hardest negatives, on which a model that learns may well be above
        it; with those of the batch, whose number varies, but under `bpr`; under a logQ correction of items
        that are not all as likely.
    """
    whose = "scores that tell no item from another"
    if objective == "softmax":
        return FixedPrior(math.log(max(num_items, 2)), whose)
    if negatives.hard is not None:
        return None
    if objective == "bpr":
        return FixedPrior(math.log(2), whose)
    uneven = negatives.log_q and negatives.distribution != "uniform"
    if negatives.in_batch or uneven:
        return None
    # A shared one that is the query's own item does not count; those of a query never are.
    count = negatives.per_query + negatives.shared * (1 - 1 / max(num_items, 1))
    if not count:
        return None
    if objective == "sampled_softmax":
        return FixedPrior(math.log1p(count), whose)
    best = math.log1p(count) + count * math.log1p(1 / count)
    return FixedPrior(best, whose, untrained=(1 + count) * math.log(2))
