"""Lists of a batch, of ids or of vectors: cut, joined with one more, padded."""

from __future__ import annotations

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import JaggedTensor

from trainer.modules.sequence_pooling import segment_rows


def places(lists: JaggedTensor) -> Tensor:
    """Return the place of each of the N elements in its list, from 0."""
    first_N: Tensor = lists.offsets()[:-1][segment_rows(lists)]
    return torch.arange(len(first_N), device=first_N.device) - first_N


def ages(lists: JaggedTensor) -> Tensor:
    """Return how many elements of the list follow each of the N elements."""
    end_N: Tensor = lists.offsets()[1:][segment_rows(lists)]
    return end_N - 1 - torch.arange(len(end_N), device=end_N.device)


def chosen(lists: JaggedTensor, which_N: Tensor) -> JaggedTensor:
    """Return the lists with the elements of `which_N` alone."""
    lengths_B = lists.lengths()
    kept_B = torch.zeros_like(lengths_B).index_add(0, segment_rows(lists), which_N.to(lengths_B.dtype))
    return JaggedTensor(lists.values()[which_N], lengths=kept_B)


def newest(lists: JaggedTensor, count: int) -> JaggedTensor:
    """Return the last `count` elements of each list."""
    return chosen(lists, ages(lists) < count)


def with_last(lists: JaggedTensor, last: Tensor) -> JaggedTensor:
    """Return the lists with one more element at the end of each.

    Args:
        lists: [N, ...] in B lists.
        last: [B, ...].
    """
    values: Tensor = lists.values()
    rows = torch.arange(last.shape[0], device=last.device)
    order = torch.cat([segment_rows(lists), rows])
    # A stable sort leaves the new element behind the others of its list.
    order = torch.sort(order, stable=True).indices
    return JaggedTensor(torch.cat([values, last.to(values.dtype)])[order], lengths=lists.lengths() + 1)


def padded(lists: JaggedTensor, longest: int | None = None) -> Tensor:
    """Return [B, L, D]: L is the length of the longest list, at least 1; zeros follow the shorter ones.

    Args:
        lists: vectors [N, D] in B lists.
        longest: L where it is known; else a GPU is waited for.
    """
    values_ND: Tensor = lists.values()
    lengths_B = lists.lengths()
    rows, longest = lengths_B.shape[0], max(1, int(lengths_B.max()) if longest is None else longest)
    slot_N = segment_rows(lists) * longest + places(lists)
    flat = values_ND.new_zeros(rows * longest, values_ND.shape[1])
    return flat.index_copy(0, slot_N, values_ND).reshape(rows, longest, -1)
