"""Who scores items for rows of users, a model or a baseline without tables, and the scores themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.modules.item_model import ItemModel
from trainer.modules.over_ranks import largest
from trainer.tasks import asked

# Scores of rows and items that are made at once.
_AT_ONCE = 1 << 22


class ItemScorer(Protocol):
    """What ranking asks of whatever scores items; every rank calls the same methods in the same order.

    Attributes:
        first: first id that is an item.
        num_items: ids from there on.
        holders: features of a batch whose items a row holds already.
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
        """Return [B, N] of some of the items."""
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


class ScoredItems:
    """The scores of this rank's share of the items for some rows, made a few items at a time.

    Each pass makes them anew, but where they are few enough to be kept. Equal calls give equal bits, so that
    what one pass found may be compared with what the next one finds.

    Args:
        scorer: makes them.
        queries_BX: of the rows of all ranks.
        items: ids [N], rising without a gap, and vectors [N, X] of the share.
        left_out: ids [H] that are not to be ranked for a row, and the places of their rows.

    Attributes:
        rows: B.
    """

    def __init__(
        self,
        scorer: ItemScorer,
        queries_BX: Tensor,
        items: tuple[Tensor, Tensor],
        left_out: tuple[Tensor, Tensor],
    ) -> None:
        self._scorer, self._queries_BX, self._left_out = scorer, queries_BX, left_out
        self.rows, count = len(queries_BX), len(items[0])
        parts = max(1, min(count, -(-self.rows * count // _AT_ONCE)))
        self._ids, self._vectors = (x.tensor_split(parts) for x in items)
        self._only_BN: Tensor | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ids [C] and scores [B, C], float32; -inf of items left out, and of what is no number."""
        for number, ids_C in enumerate(self._ids):
            yield ids_C, self._scores(number)

    def of_pairs(self, place_R: Tensor, ids_R: Tensor) -> Tensor:
        """Return the scores of pairs, whoever's share the item is in; every rank calls it.

        Args:
            place_R: of the rows.
            ids_R: of the items.
        """
        score_R = torch.full(ids_R.shape, -torch.inf, device=ids_R.device)
        for number, ids_C in enumerate(self._ids):
            column_R, here_R = columns_of(ids_R, ids_C)
            if here_R.any():
                score_R[here_R] = self._scores(number)[place_R[here_R], column_R[here_R]]
        return largest(score_R)

    def _scores(self, number: int) -> Tensor:
        if self._only_BN is not None:
            return self._only_BN
        scores_BC = self._scorer.scores(self._queries_BX, self._vectors[number]).float()
        scores_BC = torch.nan_to_num(scores_BC, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        ids_H, holder_H = self._left_out
        column_H, here_H = columns_of(ids_H, self._ids[number])
        scores_BC[holder_H[here_H], column_H[here_H]] = -torch.inf
        if len(self._ids) == 1:
            self._only_BN = scores_BC
        return scores_BC


def columns_of(ids_R: Tensor, ids_C: Tensor) -> tuple[Tensor, Tensor]:
    """Return the columns of ids among others that rise without a gap, and which of them are there."""
    column_R = ids_R - (int(ids_C[0]) if len(ids_C) else 0)
    return column_R, (column_R >= 0) & (column_R < len(ids_C))
