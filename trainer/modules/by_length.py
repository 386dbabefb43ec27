"""Encoders of padded sequences, run on rows of like length together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from trainer.modules.item_lists import padded, places
from trainer.modules.row_dropout import of_rows
from trainer.modules.sequence_pooling import segment_rows

_GROUPS = 8
_LEAST_ROWS = {"cpu": 8, "cuda": 128}
"""Of a group: with fewer, starting its kernels costs more than padding. On GPUs this is not measured."""


def encoded(encoder: nn.Module, lists: JaggedTensor, *more_N: Tensor) -> Tensor:
    """Return what an encoder makes of each of the N elements, [N, X], in their order.

    A batch's longest row sets how much padding the others get, which can be most of the work. So rows are
    sorted by length and encoded in groups, each padded to its own longest.

    Args:
        encoder: takes [B, L, D] padded at the end, lengths [B] and `more_N` as [B, L, ...]; gives [B, L, X].
            What it makes of an element must not depend on other rows nor on padding.
        lists: vectors [N, D] in B lists.
        more_N: further things to know of each element, [N, ...].
    """
    lengths_B, row_N, place_N = lists.lengths(), segment_rows(lists), places(lists)
    rows = lengths_B.shape[0]
    groups = max(1, min(_GROUPS, rows // _LEAST_ROWS[lengths_B.device.type]))
    if groups == 1:
        return _encoded(encoder, lists, more_N, place_N, int(lengths_B.max()))
    order_B = torch.argsort(lengths_B, stable=True)
    place_B = torch.empty_like(order_B).index_copy_(0, order_B, torch.arange(rows, device=order_B.device))
    # Elements in the order of the sorted rows; those of a row stay together and in their order.
    element_N = torch.argsort(place_B[row_N], stable=True)
    sorted_B = lengths_B[order_B]
    share = -(-rows // groups)
    parts = torch.split(sorted_B, share)
    counts, longest = torch.stack([torch.stack([part.sum(), part.max()]) for part in parts]).T.tolist()
    outs: list[Tensor] = []
    for rows_G, lengths_G, element_M, length in zip(
        torch.split(order_B, share), parts, torch.split(element_N, counts), longest, strict=True
    ):
        part = JaggedTensor(lists.values()[element_M], lengths=lengths_G)
        with of_rows(encoder, rows_G):
            more_M = [x[element_M] for x in more_N]
            outs.append(_encoded(encoder, part, more_M, place_N[element_M], length))
    back_N = torch.empty_like(element_N).index_copy_(
        0, element_N, torch.arange(len(element_N), device=element_N.device)
    )
    return torch.cat(outs)[back_N]


def _encoded(
    encoder: nn.Module, lists: JaggedTensor, more_N: Sequence[Tensor], place_N: Tensor, longest: int
) -> Tensor:
    lengths_B = lists.lengths()
    given = [padded(JaggedTensor(x, lengths=lengths_B), longest) for x in (lists.values(), *more_N)]
    out_BLX = encoder(given[0], lengths_B, *given[1:])
    slot_N = segment_rows(lists) * out_BLX.shape[1] + place_N
    out_NX: Tensor = out_BLX.flatten(0, 1).index_select(0, slot_N)
    return out_NX
