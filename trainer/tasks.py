"""What is trained: a model together with its loss, in the form that TorchRec's train pipelines expect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.config import LossConfig
from trainer.losses.pointwise import PointwiseLoss, TaskHead
from trainer.modules.item_model import ItemModel
from trainer.modules.lookup_penalty import LookupPenalty
from trainer.modules.row_dropout import row_dropouts, row_numbers

Wanted = Literal["loss", "queries", "items"]
TaskOutput = tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]


class TrainingTask(nn.Module):
    """A model and its loss; the module that is sharded and trained.

    Args:
        model: takes a `Batch`, returns logits [B, T], or in training its own loss, a scalar.
        loss: of logits; default plain cross-entropy.
        heads: what the columns of the logits stand for; default one binary label.
        embedding_l2: weight of the L2 of what is looked up.

    Attributes:
        penalty: that L2; its `watch` is called once the tables are sharded.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossConfig | None = None,
        heads: Sequence[TaskHead] = (TaskHead(),),
        embedding_l2: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        if isinstance(model, ItemModel) and loss is not None:
            model.loss = loss
        # A module, not a function: TorchRec's pipelines trace this forward and leave whole modules alone.
        self.loss = PointwiseLoss(loss or LossConfig(), heads)
        self.penalty = LookupPenalty(embedding_l2)
        self.wanted: Wanted = "loss"
        self._dropouts = row_dropouts(model)

    def forward(self, batch: Batch) -> Any:
        """Return the loss and what metrics need; see `asked` for what else.

        Args:
            batch: rows of this rank.

        Returns:
            `TaskOutput`, `(loss, (loss, logits_BT, labels_BT, weights_B))`: the tensors of the inner tuple
            are detached: loss scalar, logits and labels [B, T], weights [B], all float32. Logits are zeros
            where the model gave its own loss, and the inner loss is without the penalty. Of a rating the
            logit is what `TaskHead` says.
        """
        model = self.model
        if self.wanted != "loss":
            assert isinstance(model, ItemModel)
            return model.row_queries(batch) if self.wanted == "queries" else model.item_share(batch)
        rows_B = row_numbers(batch.rows_B) if self.training and self._dropouts else None
        for dropout in self._dropouts:
            dropout.rows_B = rows_B
        logits_BT = model(batch)
        if self.training and isinstance(model, ItemModel) and model.has_own_loss:
            loss, logits_BT = logits_BT, torch.zeros_like(batch.labels_BT)
            # A mean over queries already: as the others it is told as a weighted sum of rows, divided by B.
            told_loss = loss.detach() * model.weight(batch)
        else:
            loss = self.loss(logits_BT, batch.labels_BT, batch.weights_B)
            told_loss = loss.detach()
        told = (told_loss, logits_BT.detach(), batch.labels_BT, batch.weights_B)
        return (loss + self.penalty(batch.weights_B) if self.penalty.l2 else loss), told


def asked(task: nn.Module, wanted: Wanted, batch: Batch) -> Any:
    """Return what the model of a task makes of a batch besides its loss; every rank calls it.

    The call goes through the task's wrappers: shared-out parameters are whole inside its forward alone.

    Args:
        task: a `TrainingTask` of an `ItemModel`, wrapped or not.
        wanted: `queries` for its `row_queries`, `items` for its `item_share`.
        batch: rows of this rank.
    """
    inner = _inner(task)
    inner.wanted = wanted
    try:
        return task(batch)
    finally:
        inner.wanted = "loss"


def begin_parts(task: nn.Module, batch: Batch, parts: int) -> None:
    """Say that the next batches are the parts of one; every rank calls it.

    Args:
        task: a `TrainingTask`, wrapped or not.
        batch: whole, as the model looks it up.
        parts: that it is trained in.
    """
    inner = _inner(task)
    inner.penalty.parts = parts
    if parts > 1 and isinstance(inner.model, ItemModel):
        inner.model.begin_parts(batch, parts)


def _inner(task: nn.Module) -> TrainingTask:
    return next(module for module in task.modules() if isinstance(module, TrainingTask))
