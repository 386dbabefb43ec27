"""The best items of each row among all items, or among some drawn ones, over the ranks' shares.

Every rank scores all rows of a step against its own share of the items, some columns at a time, and keeps the
best; what ranks exchange are queries, lists of ids and the best of each share. Of equal scores the smaller id
comes first, which is the item with more events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sharding.hashing import signed64, splitmix64_
from trainer.batch import Batch
from trainer.item_keys import NO_ITEM, item_keys, largest_keys, scores_and_ids
from trainer.item_ranking import gathered_lists
from trainer.modules.item_model import ItemModel
from trainer.modules.over_ranks import gathered, world
from trainer.modules.row_dropout import row_numbers
from trainer.tasks import asked

# Scores that are made at once.
_AT_ONCE = 1 << 24
_DRAW_STEP = 0xA0761D6478BD642F


@dataclass(frozen=True)
class BestItems:
    """The best items of R rows.

    Attributes:
        rows_R: row numbers.
        ids_RK: items, best first; 0 where there are fewer.
        scores_RK: their scores, float32; -inf where there are fewer.
    """

    rows_R: NDArray[np.int64]
    ids_RK: NDArray[np.int64]
    scores_RK: NDArray[np.float32]


def best_items(
    task: nn.Module,
    batches: Iterable[Batch],
    device: torch.device,
    count: int,
    *,
    left_out: Sequence[str],
    candidates: int | None = None,
    seed: int = 1,
) -> Iterator[BestItems]:
    """Yield the best items of this rank's rows, a batch at a time; every rank calls it.

    Args:
        task: the sharded `TrainingTask` of an `ItemModel`.
        batches: as many on every rank, padded with rows of weight 0.
        device: where the model is.
        count: K.
        left_out: features whose items are not ranked for the row that holds them.
        candidates: items of each row, drawn without those left out, that alone are ranked; None ranks all.
        seed: of the draws, which follow the row number and the item.
    """
    task.eval()
    model = next(module for module in task.modules() if isinstance(module, ItemModel))
    ranking = _Best(model, count, tuple(left_out), candidates, seed)
    for batch in batches:
        with torch.no_grad():
            found = ranking.step(task, batch.to(device, non_blocking=True))
        yield found


class _Best:
    def __init__(
        self, model: ItemModel, count: int, left_out: tuple[str, ...], candidates: int | None, seed: int
    ) -> None:
        self._model, self._count, self._left_out = model, count, left_out
        self._candidates, self._seed = candidates, seed
        self._items: tuple[Tensor, Tensor] | None = None

    def step(self, task: nn.Module, batch: Batch) -> BestItems:
        if self._items is None:
            self._items = asked(task, "items", batch)
        queries_BX, own = gathered(asked(task, "queries", batch).float())
        rows_B, _ = gathered(row_numbers(batch.rows_B))
        held = [gathered_lists(batch.sparse[name]) for name in self._left_out]
        none = torch.zeros(0, dtype=torch.int64, device=queries_BX.device)
        ids_H, holder_H = (torch.cat(parts) for parts in zip((none, none), *held, strict=True))
        keys_BK = self._best(queries_BX, rows_B, ids_H, holder_H)[own]
        real_B = batch.rows_B >= 0
        scores_RK, ids_RK = scores_and_ids(keys_BK[real_B])
        return BestItems(*(x.cpu().numpy() for x in (batch.rows_B[real_B], ids_RK, scores_RK)))

    def _best(self, queries_BX: Tensor, rows_B: Tensor, ids_H: Tensor, holder_H: Tensor) -> Tensor:
        """Return the keys of the best items of all ranks' rows, [B, K], best first."""
        assert self._items is not None
        ids_N, items_NX = self._items
        width = self._candidates or self._count
        # Of each row what it is chosen by, and the key of its score; the same where all items are ranked.
        chosen_BK = torch.full((len(queries_BX), 0), NO_ITEM, dtype=torch.int64, device=queries_BX.device)
        keys_BK = chosen_BK
        step = max(1, _AT_ONCE // max(1, len(queries_BX)))
        for first in range(0, len(ids_N), step):
            ids_C = ids_N[first : first + step]
            keys_BC = item_keys(self._model.scores(queries_BX, items_NX[first : first + step]).float(), ids_C)
            column_H = ids_H - int(ids_C[0])
            here_H = (column_H >= 0) & (column_H < len(ids_C))
            keys_BC[holder_H[here_H], column_H[here_H]] = NO_ITEM
            chosen_BC = keys_BC if self._candidates is None else self._drawn(rows_B, ids_C, keys_BC)
            chosen_BK, keys_BK = largest_keys(
                width, torch.cat([chosen_BK, chosen_BC], dim=1), torch.cat([keys_BK, keys_BC], dim=1)
            )
        if world()[1] > 1:
            # Ranks differ in how many they have: rows of the transposed are gathered.
            chosen_BK, keys_BK = (gathered(x.T.contiguous())[0].T for x in (chosen_BK, keys_BK))
            chosen_BK, keys_BK = largest_keys(width, chosen_BK, keys_BK)
        best_BK = largest_keys(self._count, keys_BK, keys_BK)[0]
        missing = self._count - best_BK.shape[1]
        return nn.functional.pad(best_BK, (0, missing), value=NO_ITEM)

    def _drawn(self, rows_B: Tensor, ids_C: Tensor, keys_BC: Tensor) -> Tensor:
        """Return a hash of each pair of row and item, the lowest number where the row holds the item."""
        row_B1 = splitmix64_(rows_B + signed64(self._seed * _DRAW_STEP)).unsqueeze(1)
        return splitmix64_(row_B1 + ids_C).masked_fill(keys_BC == NO_ITEM, NO_ITEM)
