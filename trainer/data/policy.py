"""How part files are read, and what stands in for rows that cannot be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from trainer.data.columns import Columns, DecodedRows, Jagged
from trainer.storage import ATTEMPTS


@dataclass(frozen=True)
class ReadPolicy:
    """How part files are read.

    Attributes:
        on_corrupt: `fail`, or `skip`: zero-weight rows stand in for row groups that cannot be read, so that
            all other rows keep their places.
        remote_prefetch_row_groups: row groups that are fetched ahead from a store; 0 fetches when needed.
        remote_attempts: tries of a read from a store.
    """

    on_corrupt: Literal["fail", "skip"] = "fail"
    remote_prefetch_row_groups: int = 8
    remote_attempts: int = ATTEMPTS


class BlankRows(DecodedRows):
    """Rows of zeros and empty lists, with weight 0.

    Args:
        columns: what to stand in for.
        size: rows.
    """

    def __init__(self, columns: Columns, size: int) -> None:
        zeros, ids = np.zeros(size, np.float32), np.zeros(size, columns.id_dtype)
        self.dense = [
            zeros if feature.dim is None else np.zeros((size, feature.dim), np.float32)
            for feature in columns.dense
        ]
        self.single = [ids] * len(columns.single)
        self.lists = [Jagged(ids[:0], np.zeros(size + 1, np.int64))] * len(columns.lists)
        self.labels = np.zeros((size, len(columns.spec.tasks)), np.float32)
        self.weights = zeros
