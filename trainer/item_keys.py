"""Scores with their items as whole numbers, whose order does not depend on how the items are shared out."""

from __future__ import annotations

import torch
from torch import Tensor

NO_ITEM = -(1 << 63)
"""Below every key."""
_ID_BITS = 32


def item_keys(scores_BC: Tensor, ids_C: Tensor) -> Tensor:
    """Return numbers in the order of the scores, and of equal ones against that of the ids; int64 [B, C].

    No two of a row are equal. What is no number comes last.

    Args:
        scores_BC: float32.
        ids_C: of the items, below 2^32.
    """
    scores_BC = torch.nan_to_num(scores_BC, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf) + 0.0
    bits_BC = scores_BC.contiguous().view(torch.int32)
    ordered_BC = torch.where(bits_BC < 0, bits_BC ^ 0x7FFFFFFF, bits_BC).long()
    return (ordered_BC << _ID_BITS) + ((1 << _ID_BITS) - 1 - ids_C)


def scores_and_ids(keys_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores of keys, and the ids; -inf and 0 where there is no item or its score is -inf."""
    ordered_BK = (keys_BK >> _ID_BITS).int()
    bits_BK = torch.where(ordered_BK < 0, ordered_BK ^ 0x7FFFFFFF, ordered_BK)
    scores_BK = bits_BK.view(torch.float32).masked_fill(keys_BK == NO_ITEM, -torch.inf)
    ids_BK = (1 << _ID_BITS) - 1 - (keys_BK & ((1 << _ID_BITS) - 1))
    return scores_BK, ids_BK.masked_fill(scores_BK == -torch.inf, 0)


def largest_keys(count: int, by_BN: Tensor, other_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Return the `count` largest numbers of each row, largest first, and what stands beside them."""
    by_BK, order_BK = by_BN.topk(min(count, by_BN.shape[1]), dim=1)
    return by_BK, other_BN.gather(1, order_BK)
