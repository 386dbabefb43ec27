"""The batch that every reader makes and every model takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

SKIPPED_ROW = -2
"""`Batch.rows_B` of a row of zeros that stands in for one that could not be read."""


@dataclass
class Batch(Pipelineable):
    """Rows of one rank at one step, padded with zero-weight rows where the split's tail is short.

    Attributes:
        dense_BF: float32 [B, F_dense], columns in the order of `FeatureSpec.dense` (`dim` of
            them for a feature of lists), then the components of its `vectors`; F_dense may be 0.
        sparse: ids (int64) of all sparse and sequence features, keys in the order of `FeatureSpec.sparse`.
        labels_BT: float32 [B, T], T tasks; NaN where a row does not count for a task.
        weights_B: float32 [B]; 0 marks a padding row, or one that could not be read.
        rows_B: int64 [B], number of the row in its split; -1 for padding, or everywhere where the reader
            does not know it; `SKIPPED_ROW` for one that could not be read.
    """

    dense_BF: Tensor
    sparse: KeyedJaggedTensor
    labels_BT: Tensor
    weights_B: Tensor
    rows_B: Tensor

    @property
    def size(self) -> int:
        """Return B, padding included."""
        return int(self.labels_BT.shape[0])

    def parts(self, count: int) -> Iterator[Batch]:
        """Yield the rows in `count` batches of equal size, one after another.

        Raises:
            ValueError: `count` does not divide B.
        """
        size, left = divmod(self.size, count)
        if left:
            raise ValueError(f"{count} parts of {self.size} rows")
        if count == 1:
            yield self
            return
        features = len(self.sparse.keys())
        lengths_FB = self.sparse.lengths().reshape(features, -1)
        ends = self.sparse.offsets()[1:].reshape(features, -1)
        for first in range(0, self.size, size):
            rows = slice(first, first + size)
            begins = (ends[:, first] - lengths_FB[:, first]).tolist()
            values = [
                self.sparse.values()[begin:end]
                for begin, end in zip(begins, ends[:, first + size - 1].tolist(), strict=True)
            ]
            sparse = KeyedJaggedTensor(
                self.sparse.keys(), torch.cat(values), lengths=lengths_FB[:, rows].reshape(-1)
            )
            yield Batch(
                self.dense_BF[rows], sparse, self.labels_BT[rows], self.weights_B[rows], self.rows_B[rows]
            )

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """Return the batch on a device."""
        return self._map(lambda value: value.to(device=device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked host memory."""
        return self._map(lambda value: value.pin_memory())

    def record_stream(self, stream: Any) -> None:
        """Tell CUDA's allocator that a stream uses the batch."""
        for field in fields(self):
            getattr(self, field.name).record_stream(stream)

    def _map(self, function: Any) -> Batch:
        return replace(self, **{field.name: function(getattr(self, field.name)) for field in fields(self)})
