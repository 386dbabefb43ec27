"""Batches of raw ids turned into batches of rows, before the model looks them up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from sharding.fresh_rows import FreshRows
from sharding.ids import Figures, IdMap
from trainer.batch import Batch


class BatchIds:
    """The ids that come and go, for batches; does nothing where no table has such.

    Args:
        ids: of the tables.
        fresh: starts rows with a new owner anew.
    """

    def __init__(self, ids: IdMap, fresh: FreshRows) -> None:
        self.map, self._fresh = ids, fresh

    def train(self, batch: Batch) -> Batch:
        """Count the ids of a training batch, admit and evict, and put rows for ids.

        Args:
            batch: of this rank, on its device; every rank brings its own.
        """
        if not self.map.tables:
            return batch
        rows, changed = self.map.train(batch.sparse)
        for table, rows_R in changed.items():
            self._fresh.write(table, rows_R)
        return replace(batch, sparse=rows)

    def looked_up(self, batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
        """Yield batches on a device with rows for ids; ids without one get the row that they share."""
        for batch in batches:
            moved = batch.to(device, non_blocking=True)
            yield replace(moved, sparse=self.map.look_up(moved.sparse)) if self.map.tables else moved

    def figures(self) -> Figures:
        """Return what happened since the last call by table; every rank calls it."""
        return self.map.figures() if self.map.tables else {}

    def lookup_figures(self) -> Figures:
        """Return what `looked_up` was asked since the last call by table; every rank calls it."""
        return self.map.lookup_figures() if self.map.tables else {}
