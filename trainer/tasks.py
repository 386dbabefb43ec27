"""What is trained: a model together with its loss, in the form that TorchRec's train pipelines expect."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.config import LossConfig
from trainer.modules.row_dropout import row_dropouts

TaskOutput = tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]


class WeightedBinaryCrossEntropy(nn.Module):
    """Binary cross-entropy of logits, or its focal form: `sum(weight * loss) / (B * T)`.

    The divisor is the rank's number of rows, padding included, and not the sum of the weights. All ranks have
    the same B, and DistributedModelParallel averages gradients over ranks, so the average over ranks is the
    loss of the whole global batch at every world size. Weight sums differ from rank to rank: dividing by
    them would make a row count more on a rank that happens to hold more padding, and the result would change
    with the world size. Padding rows have weight 0 and so add nothing. Sample weights far from a mean of 1
    scale the loss, as they do in the sum over rows.

    Args:
        config: label smoothing, focal exponent, weight of positives.

    Source: label smoothing as in Szegedy et al. 2016, arXiv:1512.00567, section 7, over the two classes;
    focal loss, Lin et al. 2017, arXiv:1708.02002, equation 4.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, logits_BT: Tensor, labels_BT: Tensor, weights_B: Tensor) -> Tensor:
        """Return the loss.

        Args:
            logits_BT: float32 [B, T].
            labels_BT: float32 [B, T], 0 or 1.
            weights_B: float32 [B], >= 0; 0 marks padding.

        Returns:
            Float32 scalar.
        """
        logits_BT, config = logits_BT.float(), self.config
        smooth_BT = labels_BT * (1 - config.label_smoothing) + config.label_smoothing / 2
        loss_BT = nn.functional.binary_cross_entropy_with_logits(logits_BT, smooth_BT, reduction="none")
        if config.focal_gamma:
            # The logarithm of the other label's probability: a power of 0 would have no gradient.
            wrong_BT = nn.functional.logsigmoid(logits_BT * (1 - 2 * labels_BT))
            loss_BT = loss_BT * torch.exp(config.focal_gamma * wrong_BT)
        if config.positive_weight != 1:
            loss_BT = loss_BT * (1 + (config.positive_weight - 1) * labels_BT)
        return (loss_BT * weights_B.unsqueeze(1)).sum() / loss_BT.numel()


class TrainingTask(nn.Module):
    """A model and its loss; the module that is sharded and trained.

    Args:
        model: takes a `Batch`, returns logits [B, T].
        loss: default plain cross-entropy.
    """

    def __init__(self, model: nn.Module, loss: LossConfig | None = None) -> None:
        super().__init__()
        self.model = model
        # A module, not a function: TorchRec's pipelines trace this forward and leave whole modules alone.
        self.loss = WeightedBinaryCrossEntropy(loss or LossConfig())
        self._dropouts = row_dropouts(model)

    def forward(self, batch: Batch) -> TaskOutput:
        """Return the loss and what metrics need.

        Args:
            batch: rows of this rank.

        Returns:
            `(loss, (loss, logits_BT, labels_BT, weights_B))`; the tensors of the inner tuple are detached:
            loss scalar, logits and labels [B, T], weights [B], all float32.
        """
        for dropout in self._dropouts:
            dropout.rows_B = batch.rows_B
        logits_BT = self.model(batch)
        loss = self.loss(logits_BT, batch.labels_BT, batch.weights_B)
        return loss, (loss.detach(), logits_BT.detach(), batch.labels_BT, batch.weights_B)
