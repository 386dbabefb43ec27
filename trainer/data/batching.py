"""Cuts blocks of rows into batches: several at once, so that the slices copied from each lane stay large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from trainer.batch import Batch
from trainer.data.blocks import RowBlock
from trainer.data.columns import Columns
from trainer.data.vectors import Vectors, with_vectors

# Rows of a rank that are assembled at once: a few MiB, which the allocator reuses without new pages.
_SUPER_BATCH_ROWS = 32_768


class BatchAssembler:
    """Joins the slices of a rank's lanes into batches.

    Args:
        columns: what the blocks hold.
        num_lanes: lanes of the rank.
        rows_per_lane: rows that a batch takes from each lane (b).
        vectors: what the columns of vectors look up.
    """

    def __init__(
        self, columns: Columns, num_lanes: int, rows_per_lane: int, vectors: Sequence[Vectors] = ()
    ) -> None:
        self._columns = columns
        self._vectors = vectors
        self._lanes = num_lanes
        self._rows = rows_per_lane
        self._size = num_lanes * rows_per_lane
        # Lengths of batches without list features never change: one tensor serves all of them.
        self._ones = torch.ones(len(columns.keys) * self._size, dtype=torch.int32)

    @property
    def steps_at_once(self) -> int:
        """Return how many batches `assemble` should be given rows for."""
        return max(1, _SUPER_BATCH_ROWS // self._size)

    def assemble(self, blocks: Sequence[RowBlock], steps: int) -> Iterator[Batch]:
        """Yield `steps` batches.

        Args:
            blocks: `steps * b` rows of each lane; batch s takes rows s * b to (s + 1) * b - 1 of each.
            steps: number of batches.
        """
        lanes, rows = self._lanes, self._rows
        dense = np.empty((steps, lanes, rows, self._columns.dense_width), np.float32)
        single = np.empty((steps, len(self._columns.single), lanes, rows), np.int64)
        labels = np.empty((steps, lanes, rows, len(self._columns.spec.tasks)), np.float32)
        weights = np.empty((steps, lanes, rows), np.float32)
        numbers = np.empty((steps, lanes, rows), np.int64)
        for lane, block in enumerate(blocks):
            dense[:, lane] = block.dense.reshape(steps, rows, -1)
            single[:, :, lane] = block.single.reshape(-1, steps, rows).swapaxes(0, 1)
            labels[:, lane] = block.labels.reshape(steps, rows, -1)
            weights[:, lane] = block.weights.reshape(steps, rows)
            numbers[:, lane] = block.rows.reshape(steps, rows)
        num_ids = single.shape[1] - len(self._vectors)
        for step in range(steps):
            plain_BF = dense[step].reshape(self._size, dense.shape[-1])
            vector_ids = single[step, num_ids:].reshape(len(self._vectors), self._size)
            yield Batch(
                dense_BF=torch.from_numpy(with_vectors(plain_BF, vector_ids, self._vectors)),
                sparse=self._sparse(single[step, :num_ids], blocks, step),
                labels_BT=torch.from_numpy(labels[step].reshape(self._size, -1)),
                weights_B=torch.from_numpy(weights[step].reshape(self._size)),
                rows_B=torch.from_numpy(numbers[step].reshape(self._size)),
            )

    def _sparse(self, single: NDArray[np.int64], blocks: Sequence[RowBlock], step: int) -> KeyedJaggedTensor:
        keys = self._columns.keys
        if not self._columns.lists:
            values, lengths = single.reshape(-1), self._ones
            per_key = [self._size] * len(keys)
        else:
            values, lengths, per_key = self._mixed(single, blocks, step)
        # Lengths per key are given, so that no later call has to wait for the device to learn them.
        return KeyedJaggedTensor(
            keys=keys,
            values=torch.from_numpy(values),
            lengths=lengths,
            stride=self._size,
            length_per_key=per_key,
        )

    def _mixed(
        self, single: NDArray[np.int64], blocks: Sequence[RowBlock], step: int
    ) -> tuple[NDArray[np.int64], torch.Tensor, list[int]]:
        start, stop = step * self._rows, (step + 1) * self._rows
        parts: list[NDArray[np.int64]] = []
        lengths = np.ones((len(self._columns.keys), self._lanes, self._rows), np.int32)
        per_key = []
        next_single, next_list = 0, 0
        for number, feature in enumerate(self._columns.spec.sparse):
            if not feature.is_list:
                parts.append(single[next_single].reshape(-1))
                per_key.append(self._size)
                next_single += 1
                continue
            total = 0
            for lane, block in enumerate(blocks):
                column = block.lists[next_list]
                first, last = int(column.offsets[start]), int(column.offsets[stop])
                parts.append(column.values[first:last])
                lengths[number, lane] = np.diff(column.offsets[start : stop + 1])
                total += last - first
            per_key.append(total)
            next_list += 1
        values = np.concatenate(parts, dtype=np.int64)
        return values, torch.from_numpy(lengths.reshape(-1)), per_key
