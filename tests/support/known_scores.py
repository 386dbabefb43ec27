"""Rows of users and a scorer whose scores are known, for tests of ranking; importable on ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from trainer.batch import Batch
from trainer.modules.over_ranks import world

FIRST = 2


class KnownScores:
    """Gives row r (its one dense feature) and item i the score `scores_RN[r, i]`.

    Args:
        scores_RN: of all rows and items.

    Attributes:
        most: scores that were made at once.
    """

    first = FIRST
    holders: Sequence[str] = ("seen",)

    def __init__(self, scores_RN: NDArray[Any]) -> None:
        self._scores_RN = torch.as_tensor(scores_RN).float()
        self.num_items, self.most = scores_RN.shape[1], 0

    def items(self, batch: Batch) -> tuple[Tensor, Tensor]:
        rank, ranks = world()
        mine = torch.arange(self.num_items).tensor_split(ranks)[rank]
        return mine + FIRST, mine.unsqueeze(1)

    def queries(self, batch: Batch) -> Tensor:
        return batch.dense_BF

    def scores(self, queries_BX: Tensor, items_NX: Tensor) -> Tensor:
        self.most = max(self.most, len(queries_BX) * len(items_NX))
        return self._scores_RN[queries_BX[:, 0].long()][:, items_NX[:, 0]]


@dataclass(frozen=True)
class Rows:
    """What rows list and what they are to find, ids from 2 on."""

    seen: list[list[int]]
    targets: list[list[int]]

    def batches(self, size: int, rank: int = 0, ranks: int = 1) -> list[Batch]:
        """Return the rows in batches, the last one padded; of each a rank's part."""
        count, found = len(self.seen), []
        for first in range(0, count, size):
            rows = np.array_split(np.arange(first, first + size), ranks)[rank]
            lists = [lists[r] if r < count else [] for lists in (self.seen, self.targets) for r in rows]
            numbers = torch.from_numpy(np.where(rows < count, rows, -1))
            batch = Batch(
                dense_BF=numbers.clamp(min=0).float().unsqueeze(1),
                sparse=KeyedJaggedTensor.from_lengths_sync(
                    ["seen", "targets"],
                    torch.tensor([one for ids in lists for one in ids], dtype=torch.int64),
                    torch.tensor([len(ids) for ids in lists]),
                ),
                labels_BT=torch.ones(len(rows), 1),
                weights_B=(numbers >= 0).float(),
                rows_B=numbers,
            )
            found.append(batch)
        return found


def tied_rows(rows: int, items: int) -> tuple[NDArray[np.float64], Rows]:
    """Return scores of few different values, -inf among them, and rows some of whose targets are seen."""
    rng = np.random.default_rng(0)
    scores_RN = rng.choice([-np.inf, -2.0, -0.0, 0.0, 1.0], (rows, items))
    seen = [rng.integers(1, items + FIRST, rng.integers(0, 8)).tolist() for _ in range(rows)]
    targets = [rng.integers(FIRST, items + FIRST, rng.integers(0, 5)).tolist() for _ in range(rows)]
    return scores_RN, Rows(seen, targets)


def ranked_on(rank: int, world_size: int, cases: list[tuple[int, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return what a rank finds in `tied_rows`, by how many scores are made at once and arguments."""
    from trainer import drawn_candidates, item_ranking, item_scoring

    scores_RN, rows = tied_rows(21, 33)
    batches, told = rows.batches(8, rank, world_size), []
    for at_once, keys in cases:
        for module in (drawn_candidates, item_ranking, item_scoring):
            module._AT_ONCE = at_once
        found = item_ranking.rank_by(KnownScores(scores_RN), batches, torch.device("cpu"), "targets", **keys)
        names = ("rows_L", "positives_L", "list_P", "rank_P", "top_LK")
        told.append({name: getattr(found, name).tolist() for name in names})
    return told
