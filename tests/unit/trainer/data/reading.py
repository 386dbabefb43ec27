"""What the tests of the readers share: opening tiny data sets and turning batches back into rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from tests.support.datasets import WrittenDataset
from trainer.batch import Batch
from trainer.data import BatchReader, open_reader

Row = tuple[Any, ...]


def open_tiny(
    written: WrittenDataset, rank: int = 0, world_size: int = 1, split: str = "train", **options: Any
) -> BatchReader:
    """Open a reader with 8 lanes, batches of 64 rows, shuffled, tail dropped, unless told otherwise."""
    defaults: dict[str, Any] = {
        "global_batch_size": 64,
        "num_lanes": 8,
        "seed": 3,
        "shuffle": True,
        "tail": "drop",
    }
    return open_reader(
        written.folder,
        written.manifest,
        split,
        rank=rank,
        world_size=world_size,
        **(defaults | options),
    )


def row_numbers(batch: Batch) -> list[int]:
    """Return the row numbers of a batch, padding left out."""
    return [row for row in batch.rows_B.tolist() if row >= 0]


def global_batches(
    written: WrittenDataset, world_size: int, epoch: int = 0, first_step: int = 0, **options: Any
) -> list[set[int]]:
    """Return the row numbers of every global batch, joined over the ranks."""
    ranks = [open_tiny(written, rank, world_size, **options) for rank in range(world_size)]
    shares = [[row_numbers(batch) for batch in reader.batches(epoch, first_step)] for reader in ranks]
    joined = []
    for parts in zip(*shares, strict=True):
        rows = [row for part in parts for row in part]
        assert len(rows) == len(set(rows))
        joined.append(set(rows))
    return joined


def rows_of_batch(batch: Batch, keys: list[str]) -> list[Row]:
    """Return the content of every row that is no padding: dense, ids by key, label, weight."""
    assert batch.sparse.keys() == keys
    lists = [batch.sparse[key].to_dense() for key in keys]
    rows = []
    for position in range(batch.size):
        weight = float(batch.weights_B[position])
        if weight > 0:
            ids = tuple(tuple(column[position].tolist()) for column in lists)
            dense = tuple(batch.dense_BF[position].tolist())
            rows.append((dense, ids, float(batch.labels_BT[position, 0]), weight))
    return rows


def rows_of_table(written: WrittenDataset, split: str = "train") -> list[Row]:
    """Return the same for the table that was written, in its order."""
    spec, table = written.manifest.spec, written.tables[split]
    stacked = [np.stack(table.column(f.name).to_pylist()).reshape(len(table), -1) for f in spec.dense]
    dense = np.concatenate(stacked, axis=1) if spec.dense else None
    columns = [_as_lists(table.column(f.name)) for f in spec.sparse]
    labels = table.column("label").to_pylist()
    weights = table.column("weight").to_pylist() if spec.weight else [1.0] * table.num_rows
    return [
        (
            tuple(dense[row].tolist()) if dense is not None else (),
            tuple(tuple(column[row]) for column in columns),
            labels[row],
            weights[row],
        )
        for row in range(table.num_rows)
    ]


def counted(batches: Iterable[Batch], keys: list[str]) -> Counter[Row]:
    """Return how often each row content occurs in the batches."""
    return Counter(row for batch in batches for row in rows_of_batch(batch, keys))


def _as_lists(column: pa.ChunkedArray) -> list[list[int]]:
    values = column.to_pylist()
    return [value if isinstance(value, list) else [value] for value in values]
