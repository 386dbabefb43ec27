"""Losses of each row on its own, of one or several tasks: cross-entropy, and squared errors of ratings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.config import LossConfig


@dataclass(frozen=True)
class TaskHead:
    """What one column of a model's output stands for.

    Attributes:
        is_rating: the column is a rating less `mean`, over `std`; else the logit of a binary label.
        mean: of the ratings in the training rows.
        std: their standard deviation, > 0.
        weight: of the task's loss.
    """

    is_rating: bool = False
    mean: float = 0.0
    std: float = 1.0
    weight: float = 1.0


class PointwiseLoss(nn.Module):
    """`sum over tasks t and rows b of weight_t * weight_b * loss_bt / B`; rows without a label add nothing.

    The divisor is the rank's number of rows, padding included, and not the sum of the weights. All ranks have
    the same B, and DistributedModelParallel averages gradients over ranks, so the average over ranks is the
    loss of the whole global batch at every world size. Weight sums differ from rank to rank: dividing by
    them would make a row count more on a rank that happens to hold more padding, and the result would change
    with the world size. Padding rows have weight 0 and so add nothing. Sample weights far from a mean of 1
    scale the loss, as they do in the sum over rows.

    Args:
        config: label smoothing, focal exponent, weight of positives; limit of squared errors.
        heads: one for each column of the output.
    """

    def __init__(self, config: LossConfig, heads: Sequence[TaskHead] = (TaskHead(),)) -> None:
        super().__init__()
        self.config, self.heads = config, tuple(heads)

    def forward(self, logits_BT: Tensor, labels_BT: Tensor, weights_B: Tensor) -> Tensor:
        """Return the loss.

        Args:
            logits_BT: [B, T], computed with in float32 or wider.
            labels_BT: float32 [B, T], 0 or 1, or a rating; NaN where a row does not count for a task.
            weights_B: float32 [B], >= 0; 0 marks padding.

        Returns:
            Float32 scalar.
        """
        logits_BT = logits_BT.to(torch.promote_types(logits_BT.dtype, torch.float32))
        known_BT = ~labels_BT.isnan()
        labels_BT = torch.where(known_BT, labels_BT, 0.0)
        losses = [
            head.weight * self._losses(head, logits_BT[:, t], labels_BT[:, t])
            for t, head in enumerate(self.heads)
        ]
        weights_BT = weights_B.unsqueeze(1) * known_BT
        return (torch.stack(losses, dim=1) * weights_BT).sum() / len(weights_B)

    def _losses(self, head: TaskHead, logits_B: Tensor, labels_B: Tensor) -> Tensor:
        if head.is_rating:
            return rating_losses(logits_B, (labels_B - head.mean) / head.std, self.config)
        return binary_losses(logits_B, labels_B, self.config)


def binary_losses(logits: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    """Return the cross-entropy of each logit, or its focal form, in nats.

    Args:
        logits: float32, of any shape.
        labels: 0 or 1, of the same shape.
        config: label smoothing, focal exponent, weight of positives.

    Returns:
        Float32 of that shape.

    Source: label smoothing as in Szegedy et al. 2016, arXiv:1512.00567, section 7, over the two classes;
    focal loss, Lin et al. 2017, arXiv:1708.02002, equation 4.
    """
    smooth = labels * (1 - config.label_smoothing) + config.label_smoothing / 2
    losses = nn.functional.binary_cross_entropy_with_logits(logits, smooth, reduction="none")
    if config.focal_gamma:
        # The logarithm of the other label's probability: a power of 0 would have no gradient.
        wrong = nn.functional.logsigmoid(logits * (1 - 2 * labels))
        losses = losses * torch.exp(config.focal_gamma * wrong)
    if config.positive_weight != 1:
        losses = losses * (1 + (config.positive_weight - 1) * labels)
    return losses


def rating_losses(outputs: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    """Return the squared error of each output, or with `huber_delta` d, of errors e above d, `2 d |e| - d^2`.

    Both are in units of the labels' variance, so that 1 is what their mean alone gives, on average.

    Args:
        outputs: float32, of any shape.
        labels: ratings less their mean, over their standard deviation, of the same shape.
        config: limit of squared errors.

    Returns:
        Float32 of that shape.

    Source: Huber 1964, Robust Estimation of a Location Parameter, times 2.
    """
    if config.huber_delta is None:
        return (outputs - labels).square()
    return 2 * nn.functional.huber_loss(outputs, labels, reduction="none", delta=config.huber_delta)
