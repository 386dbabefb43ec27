"""What lists of best items are beyond being right, row by row, where it takes more than the lists.

A row's history and the other ranks' vectors are at hand only while a batch is ranked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.modules.over_ranks import summed

# Numbers of item vectors that are gathered at once.
_NUMBERS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Step:
    """The rows of all ranks in a step, the same on every rank but for the vectors.

    Attributes:
        top_BK: ids of the best items, 0 where there are fewer.
        seen: ids that rows hold [H], and the places of their rows in the step.
        targets: ids to be found [P], known ones, and the places of their rows.
        ids_N: this rank's share of the items, rising without a gap.
        items_NX: their vectors.
        ranks_seen: whether what a row holds may be among its best items.
    """

    top_BK: Tensor
    seen: tuple[Tensor, Tensor]
    targets: tuple[Tensor, Tensor]
    ids_N: Tensor
    items_NX: Tensor
    ranks_seen: bool = False


class ListFigures:
    """Finds out some figures of each row.

    Args:
        counts_E: how often each id is in the training rows; 0 below the first item.
        names: of `history_popularity`, `serendipity` and `diversity`.
    """

    def __init__(self, counts_E: Tensor, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self._counts_E = counts_E
        # Equal counts: the smaller id, which is before the other in the vocabulary too.
        self._order_E = torch.argsort(counts_E, descending=True, stable=True)

    def of(self, step: Step) -> dict[str, Tensor]:
        """Return the figures of a step's rows, [B] each; every rank calls it."""
        found = {
            "history_popularity": self._history_popularity,
            "serendipity": self._serendipity,
            "diversity": _diversity,
        }
        return {name: found[name](step) for name in self.names}

    def _history_popularity(self, step: Step) -> Tensor:
        """Return the mean count of the items that each row holds; NaN where it holds none that is known."""
        ids_H, holder_H = step.seen
        counts_H = self._counts_E.to(ids_H.device)[ids_H].double()
        rows = len(step.top_BK)
        known_H = (counts_H > 0).double()
        total_B = torch.zeros(rows, dtype=torch.float64, device=ids_H.device).index_add(0, holder_H, counts_H)
        number_B = torch.zeros_like(total_B).index_add(0, holder_H, known_H)
        return total_B / torch.where(number_B > 0, number_B, torch.nan)

    def _serendipity(self, step: Step) -> Tensor:
        """Return the share of a list that is to be found and not among the K most popular ranked items."""
        top_BK, items = step.top_BK, len(self._counts_E)
        ids_P, row_P = step.targets
        row_B1 = torch.arange(len(top_BK), device=top_BK.device).unsqueeze(1)
        wanted_BK = torch.isin(row_B1 * items + top_BK, row_P * items + ids_P)
        surprising_BK = wanted_BK & ~self._popular(step)
        size_B = (top_BK > 0).sum(dim=1).double()
        return surprising_BK.sum(dim=1).double() / torch.where(size_B > 0, size_B, torch.nan)

    def _popular(self, step: Step) -> Tensor:
        """Return which of the best items popularity alone would have recommended, [B, K]."""
        top_BK = step.top_BK
        ids_H, holder_H = (ids[:0] if step.ranks_seen else ids for ids in step.seen)
        rows, k = top_BK.shape
        longest = int(torch.bincount(holder_H, minlength=rows).max()) if len(holder_H) else 0
        head_P = self._order_E[: k + longest].to(top_BK.device)
        place_E = torch.full((len(self._counts_E),), -1, device=top_BK.device)
        place_E[head_P] = torch.arange(len(head_P), device=top_BK.device)
        free_BP = torch.ones(rows, len(head_P), dtype=torch.bool, device=top_BK.device)
        place_H = place_E[ids_H]
        free_BP[holder_H[place_H >= 0], place_H[place_H >= 0]] = False
        popular_BP = free_BP & (free_BP.cumsum(dim=1, dtype=torch.int32) <= k)
        place_BK = place_E[top_BK]
        return popular_BP.gather(1, place_BK.clamp(min=0)) & (place_BK >= 0)


def _diversity(step: Step) -> Tensor:
    """Return 1 - the mean cosine of the pairs of a list, by the vectors of all ranks; NaN below two items."""
    top_BK, (_, width) = step.top_BK, step.items_NX.shape
    at_once = max(1, _NUMBERS_AT_ONCE // max(1, top_BK.shape[1] * width))
    starts = range(0, len(top_BK), at_once) or range(1)
    return torch.cat([_diversity_of(step, top_BK[first : first + at_once]) for first in starts])


def _diversity_of(step: Step, top_BK: Tensor) -> Tensor:
    first = int(step.ids_N[0]) if len(step.ids_N) else 0
    column_BK = top_BK - first
    mine_BK = (column_BK >= 0) & (column_BK < len(step.ids_N)) & (top_BK > 0)
    vectors_BKX = step.items_NX.new_zeros(*top_BK.shape, step.items_NX.shape[1], dtype=torch.float64)
    vectors_BKX[mine_BK] = step.items_NX[column_BK[mine_BK]].double()
    # Each vector is on one rank, and zeros on the others: the sum is exact.
    unit_BKX = torch.nn.functional.normalize(summed(vectors_BKX), dim=2)
    size_B = (top_BK > 0).sum(dim=1).double()
    similar_B = unit_BKX.sum(dim=1).square().sum(dim=1) - unit_BKX.square().sum(dim=(1, 2))
    pairs_B = size_B * (size_B - 1)
    return 1 - similar_B / torch.where(pairs_B > 0, pairs_B, torch.nan)
