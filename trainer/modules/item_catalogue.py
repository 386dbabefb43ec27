"""What the data set says about each item: ids of its features, to look up any item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor


class ItemCatalogue(nn.Module):
    """Lists of ids by item and feature; it holds no weights, and is filled from the data set.

    Memory: 8 bytes for each item and feature, and for each id, on every rank.

    Args:
        features: of items, besides their own id.
        num_items: ids of items, from 0 on: rows of their table.
    """

    def __init__(self, features: Sequence[str], num_items: int) -> None:
        super().__init__()
        self.features, self.num_items = tuple(features), num_items
        self._ids: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def is_filled(self) -> bool:
        """Return whether `fill` was called, or there is nothing to fill."""
        return not self.features or bool(self._ids)

    def fill(self, lists: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Take the ids of all items.

        Args:
            lists: by feature, how many ids each item has, int64 [`num_items`], and the ids of one item after
                another.
        """
        for name in self.features:
            lengths_E, ids = lists[name]
            assert len(lengths_E) == self.num_items
            self._ids[name] = (torch.cat([lengths_E.new_zeros(1), lengths_E.cumsum(0)]), ids)

    def of(self, feature: str, items: JaggedTensor) -> tuple[JaggedTensor, Tensor]:
        """Return the ids that a feature has for items.

        Args:
            feature: one of `features`.
            items: ids of N items in B rows.

        Returns:
            Ids in B rows, one item's after another's, and how many are each item's, [N].
        """
        offsets_E, ids = self._ids[feature]
        item_N, lengths_B = items.values(), items.lengths()
        begin_N = offsets_E[item_N]
        lengths_N = offsets_E[item_N + 1] - begin_N
        ends_N = lengths_N.cumsum(0)
        total = int(ends_N[-1]) if len(ends_N) else 0
        places = torch.arange(total, device=ids.device)
        places += torch.repeat_interleave(begin_N - ends_N + lengths_N, lengths_N, output_size=total)
        row_N = torch.repeat_interleave(lengths_B, output_size=len(item_N))
        per_row_B = torch.zeros_like(lengths_B).index_add(0, row_N, lengths_N)
        return JaggedTensor(ids[places], lengths=per_row_B), lengths_N
