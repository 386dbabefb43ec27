"""Predictions of a split on all ranks, and their metrics: every row exactly once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.errors import DataError
from trainer.metrics import binary_metrics


@dataclass(frozen=True)
class Predictions:
    """The rows of a split on rank 0, in row order.

    Attributes:
        rows_N: row numbers in the split.
        logits_N: scores before the sigmoid, corrected for down-sampled negatives.
        labels_N: 0 or 1.
        weights_N: sample weights.
    """

    rows_N: NDArray[np.int64]
    logits_N: NDArray[np.float64]
    labels_N: NDArray[np.float64]
    weights_N: NDArray[np.float64]

    def skipped_of(self, rows: int, split: str) -> int:
        """Return how many of a split's rows could not be read (`data.on_corrupt: skip`).

        Raises:
            DataError: none could.
        """
        if not len(self.rows_N):
            raise DataError(
                "every row of the split lies in damaged row groups",
                where=f"split {split!r}",
                got=f"{rows:,} rows",
            )
        return rows - len(self.rows_N)

    def metrics(self, chosen: NDArray[np.bool_] | None = None) -> dict[str, float]:
        """Return the metrics of all rows, or of the chosen ones."""
        which = slice(None) if chosen is None else chosen
        return binary_metrics(self.logits_N[which], self.labels_N[which], self.weights_N[which])


def predict(
    task: nn.Module, batches: Iterable[Batch], device: torch.device, logit_shift: float = 0.0
) -> Predictions | None:
    """Run a model over its rank's batches and gather the rows on rank 0.

    Every rank must bring the same number of batches of the same size (padded with zero-weight rows), which
    readers with `tail="pad"` do.

    Args:
        task: the sharded `TrainingTask`.
        batches: this rank's batches.
        device: where the model is.
        logit_shift: added to the logits: `Manifest.logit_shift`, where training negatives were down-sampled.

    Returns:
        All real rows on rank 0; None on the other ranks.
    """
    gathered = _gather(torch.cat(list(_columns(task, batches, device)), dim=1))
    return None if gathered is None else _in_row_order(gathered, logit_shift)


def predictions_by_batch(
    task: nn.Module, batches: Iterable[Batch], device: torch.device, logit_shift: float = 0.0
) -> Iterator[Predictions]:
    """Do the same as `predict` for this rank's rows alone, a batch in memory at a time."""
    for columns_4B in _columns(task, batches, device):
        yield _in_row_order(columns_4B, logit_shift)


@torch.no_grad()
def _columns(task: nn.Module, batches: Iterable[Batch], device: torch.device) -> Iterator[Tensor]:
    """Yield row, logit, label and weight of each batch as one tensor [4, B]."""
    was_training = task.training
    task.eval()
    for batch in batches:
        _, (_, logits_BT, labels_BT, weights_B) = task(batch.to(device, non_blocking=True))
        columns = (batch.rows_B.to(device), logits_BT[:, 0], labels_BT[:, 0], weights_B)
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


def _in_row_order(columns_4N: Tensor, logit_shift: float) -> Predictions:
    rows, logits, labels, weights = columns_4N.cpu().numpy()
    # Padding has row -1. The order makes sums, and so metrics, equal to the last bit at every world size.
    order = np.argsort(rows, kind="stable")
    order = order[np.searchsorted(rows[order], 0) :]
    shifted = logits[order] + logit_shift
    return Predictions(rows[order].astype(np.int64), shifted, labels[order], weights[order])


def metrics_by_value(predictions: Predictions, values_N: pa.Array, limit: int = 100) -> list[dict[str, Any]]:
    """Return the metrics of each value of a column, most rows first.

    Args:
        predictions: all rows of a split, in row order.
        values_N: the column, one value per row; nulls are a group of their own.
        limit: most values reported.

    Returns:
        `{"value", "rows", "metrics"}` each; values that JSON does not have are written as text.
    """
    if not _in_json(values_N.type):
        texts = [None if value is None else str(value) for value in values_N.to_pylist()]
        values_N = pa.array(texts, pa.string())
    encoded = values_N.dictionary_encode(null_encoding="encode")
    values, group_N = encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)
    counts = np.bincount(group_N, minlength=len(values))
    biggest = np.argsort(-counts, kind="stable")[:limit]
    return [
        {"value": values[g], "rows": int(counts[g]), "metrics": predictions.metrics(group_N == g)}
        for g in biggest
    ]


def _in_json(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return any(test(kind) for test in tests)
