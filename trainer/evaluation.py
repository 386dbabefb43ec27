"""Predictions of a split on all ranks, and their evaluation: every row exactly once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.metrics import sigmoid
from trainer.records import TaskLabel

ONE_LABEL = TaskLabel(name="label", params={})
"""A binary label alone."""


@dataclass(frozen=True)
class Predictions:
    """The rows of a split on rank 0, in row order, and what a model gives for a task, the first of them.

    Attributes:
        rows_N: row numbers in the split.
        logits_N: scores before the sigmoid, corrected for down-sampled negatives; of a rating the prediction.
        labels_N: 0 or 1, or a rating; 0 for rows that do not count.
        weights_N: sample weights; 0 for rows that do not count for the task.
        task: the task.
        others: the same rows for the further tasks.
    """

    rows_N: NDArray[np.int64]
    logits_N: NDArray[np.float64]
    labels_N: NDArray[np.float64]
    weights_N: NDArray[np.float64]
    task: TaskLabel = ONE_LABEL
    others: tuple[Predictions, ...] = ()

    def scores(self) -> NDArray[np.float64]:
        """Return probabilities, or ratings, [N]."""
        return self.logits_N if self.task.is_rating else sigmoid(self.logits_N)


def predict(
    task: nn.Module,
    batches: Iterable[Batch],
    device: torch.device,
    logit_shift: float = 0.0,
    tasks: Sequence[TaskLabel] = (ONE_LABEL,),
) -> Predictions | None:
    """Run a model over its rank's batches and gather the rows on rank 0.

    Every rank must bring the same number of batches of the same size (padded with zero-weight rows), which
    readers with `tail="pad"` do.

    Args:
        task: the sharded `TrainingTask`.
        batches: this rank's batches.
        device: where the model is.
        logit_shift: added to the first task's logits: `Manifest.logit_shift`, where training negatives were
            down-sampled.
        tasks: what the columns of the logits stand for.

    Returns:
        All real rows on rank 0; None on the other ranks.
    """
    gathered = _gather(torch.cat(list(prediction_columns(task, batches, device)), dim=1))
    return None if gathered is None else _in_row_order(gathered, logit_shift, tasks)


def predictions_by_batch(
    task: nn.Module,
    batches: Iterable[Batch],
    device: torch.device,
    logit_shift: float = 0.0,
    tasks: Sequence[TaskLabel] = (ONE_LABEL,),
) -> Iterator[Predictions]:
    """Do the same as `predict` for this rank's rows alone, a batch in memory at a time."""
    for columns_XB in prediction_columns(task, batches, device):
        yield _in_row_order(columns_XB, logit_shift, tasks)


@torch.no_grad()
def prediction_columns(task: nn.Module, batches: Iterable[Batch], device: torch.device) -> Iterator[Tensor]:
    """Yield row, weight, logits and labels of each batch as one tensor [2 + 2 T, B]."""
    was_training = task.training
    task.eval()
    for batch in batches:
        _, (_, logits_BT, labels_BT, weights_B) = task(batch.to(device, non_blocking=True))
        columns = (batch.rows_B.to(device), weights_B, *logits_BT.unbind(1), *labels_BT.unbind(1))
        # float64 holds row numbers exactly up to 2^53.
        yield torch.stack([column.double() for column in columns])
    task.train(was_training)


def _gather(mine: Tensor) -> Tensor | None:
    if dist.get_world_size() == 1:
        return mine
    first = dist.get_rank() == 0
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())] if first else None
    dist.gather(mine.contiguous(), parts, dst=0)
    return torch.cat(parts, dim=1) if parts is not None else None


def _in_row_order(columns_XN: Tensor, logit_shift: float, tasks: Sequence[TaskLabel]) -> Predictions:
    rows, weights, *columns = columns_XN.cpu().numpy()
    # Padding has row -1. The order makes sums, and so metrics, equal to the last bit at every world size.
    order = np.argsort(rows, kind="stable")
    order = order[np.searchsorted(rows[order], 0) :]
    numbers, weights_N = rows[order].astype(np.int64), weights[order]
    found: list[Predictions] = []
    for number, task in enumerate(tasks):
        logits, labels = columns[number][order], columns[len(tasks) + number][order]
        shifted = logits * task.std + task.mean + (0.0 if number else logit_shift)
        known = ~np.isnan(labels)
        found.append(Predictions(numbers, shifted, np.where(known, labels, 0.0), weights_N * known, task))
    return replace(found[0], others=tuple(found[1:]))
