"""Losses of queries with one item to be found and some that are not.

All take the scores of the positives [Q], those of the negatives [Q, C], which of these count [Q, C], and
`train.loss`, as far as they have a form of it, and return [Q]; a query without negatives that count has no
loss but under `pointwise`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from trainer.config import LossConfig
from trainer.losses.pointwise import binary_losses

Objective = Literal["pointwise", "bpr", "sampled_softmax", "softmax"]


_PLAIN = LossConfig()


def bpr_loss(
    positive_Q: Tensor,
    negative_QC: Tensor,
    counts_QC: Tensor,
    loss: LossConfig = _PLAIN,  # noqa: ARG001
) -> Tensor:
    """Return the mean over the negatives of -log sigmoid(positive - negative).

    Source: Rendle et al. 2009, arXiv:1205.2618, section 4.1.
    """
    loss_QC = softplus(negative_QC - positive_Q.unsqueeze(1)) * counts_QC
    return loss_QC.sum(dim=1) / counts_QC.sum(dim=1).clamp(min=1)


def pointwise_loss(
    positive_Q: Tensor, negative_QC: Tensor, counts_QC: Tensor, loss: LossConfig = _PLAIN
) -> Tensor:
    """Return the losses of the positive as label 1 and of each negative as label 0, summed.

    Source: Kang and McAuley 2018, arXiv:1808.09781, section III.E; the sum over n negatives is the n + 1 rows
    of He et al. 2017, arXiv:1708.05031, equation 7.
    """
    negatives_QC = binary_losses(negative_QC, torch.zeros_like(negative_QC), loss)
    return binary_losses(positive_Q, torch.ones_like(positive_Q), loss) + (negatives_QC * counts_QC).sum(
        dim=1
    )


def sampled_softmax_loss(
    positive_Q: Tensor, negative_QC: Tensor, counts_QC: Tensor, loss: LossConfig = _PLAIN
) -> Tensor:
    """Return the cross-entropy of the positive among itself and the negatives.

    Source: Jean et al. 2015, arXiv:1412.2007, section 3; corrections of the scores are the caller's.
    """
    others_QC = negative_QC.masked_fill(~counts_QC, -torch.inf)
    normaliser_Q = torch.logsumexp(torch.cat([positive_Q.unsqueeze(1), others_QC], dim=1), dim=1)
    mean_Q = (positive_Q + (negative_QC * counts_QC).sum(dim=1)) / (1 + counts_QC.sum(dim=1))
    return normaliser_Q - smoothed(positive_Q, mean_Q, loss)


def smoothed(positive_Q: Tensor, mean_Q: Tensor, loss: LossConfig) -> Tensor:
    """Return the expected score of the item to be found, by smoothed labels.

    Args:
        positive_Q: score of that item.
        mean_Q: mean score of all items that it is told from, its own included.
        loss: with the share that is spread evenly over them.

    Source: Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """
    share = loss.label_smoothing
    return torch.lerp(positive_Q, mean_Q, share) if share else positive_Q


def hardest(negative_QC: Tensor, counts_QC: Tensor, count: int) -> Tensor:
    """Return which negatives count when only the `count` of highest score do."""
    if count >= negative_QC.shape[1]:
        return counts_QC
    scores_QC = negative_QC.detach().masked_fill(~counts_QC, -torch.inf)
    best_QK = scores_QC.topk(count, dim=1).indices
    return counts_QC & torch.zeros_like(counts_QC).scatter(1, best_QK, True)
