"""Who scores items for rows of users: a model, or a baseline without tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from trainer.batch import Batch
from trainer.modules.item_model import ItemModel
from trainer.tasks import asked


class ItemScorer(Protocol):
    """What ranking asks of whatever scores items; every rank calls the same methods in the same order.

    Attributes:
        first: first id that is an item.
        num_items: ids from there on.
        holders: features of a batch whose items a row does not get again.
    """

    first: int
    num_items: int
    holders: Sequence[str]

    def items(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return ids [N], rising without a gap, and vectors [N, X] of this rank's share of the items."""
        ...

    def queries(self, batch: Batch) -> Tensor:
        """Return what is scored of each row, [B, X]."""
        ...

    def scores(self, queries_BX: Tensor, items_NX: Tensor) -> Tensor:
        """Return [B, N]."""
        ...


class ModelScorer:
    """A model of queries and items.

    Args:
        task: the sharded `TrainingTask` of an `ItemModel`.
    """

    def __init__(self, task: nn.Module) -> None:
        self._task = task
        self._model = next(module for module in task.modules() if isinstance(module, ItemModel))
        self.first = self._model.sampler.first
        self.num_items = self._model.sampler.num_items
        self.holders: Sequence[str] = self._model.holders

    def items(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return ids and vectors of this rank's share of the items."""
        ids_N, items_NX = asked(self._task, "items", batch)
        return ids_N, items_NX

    def queries(self, batch: Batch) -> Tensor:
        """Return the query of each row."""
        queries_BX: Tensor = asked(self._task, "queries", batch)
        return queries_BX

    def scores(self, queries_BX: Tensor, items_NX: Tensor) -> Tensor:
        """Return what the model makes of queries and items."""
        return self._model.scores(queries_BX, items_NX)
