"""Ids to the ranks that keep their buckets, and the answers back: three exchanges for all tables."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from sharding.id_share import TableIds


@dataclass(frozen=True)
class Brought:
    """What the ranks ask of this one, rank after rank and table after table within.

    Attributes:
        ids_N: ids.
        counts_N: how often each was looked up.
        tables_N: number of the table.
        received: pairs that came from each rank.
        sent: pairs that went to each rank.
        order: of what this rank sent, as places in what it asked.
    """

    ids_N: Tensor
    counts_N: Tensor
    tables_N: Tensor
    received: list[int]
    sent: list[int]
    order: Tensor


class IdExchange:
    """Brings ids to their owners and rows back, over the default process group.

    Args:
        world_size: ranks.
        num_tables: tables with ids.
        device: of the tensors.
    """

    def __init__(self, world_size: int, num_tables: int, device: torch.device) -> None:
        self._world_size, self._num_tables, self._device = world_size, num_tables, device

    def to_owners(self, owner_U: Tensor, asked: TableIds) -> Brought:
        """Send ids to their owners.

        Args:
            owner_U: int64, the rank of each id's bucket.
            asked: ids and counts.
        """
        key_U = owner_U * self._num_tables + asked.tables_U
        order = key_U.sort(stable=True).indices
        sizes = torch.bincount(key_U, minlength=self._world_size * self._num_tables)
        theirs = self._exchanged(sizes)
        sent, received = (
            value.reshape(self._world_size, self._num_tables).sum(dim=1).tolist() for value in (sizes, theirs)
        )
        pairs = torch.stack([asked.ids_U, asked.counts_U], dim=1)
        brought = self._exchanged(pairs[order], received, sent)
        numbers = torch.arange(self._num_tables, device=self._device).repeat(self._world_size)
        return Brought(
            brought[:, 0].contiguous(),
            brought[:, 1].contiguous(),
            numbers.repeat_interleave(theirs),
            received,
            sent,
            order,
        )

    def back(self, brought: Brought, answer_N: Tensor) -> Tensor:
        """Return the rows of what this rank asked.

        Args:
            brought: what this rank was asked.
            answer_N: a row for each id of it.
        """
        found = self._exchanged(answer_N, brought.sent, brought.received)
        rows_U = torch.empty_like(found)
        rows_U[brought.order] = found
        return rows_U

    def _exchanged(
        self, mine: Tensor, received: list[int] | None = None, sent: list[int] | None = None
    ) -> Tensor:
        """Send each rank its part of the rows, and return those that came; without sizes all are equal."""
        if self._world_size == 1:
            return mine
        theirs = mine.new_empty(len(mine) if received is None else sum(received), *mine.shape[1:])
        dist.all_to_all_single(theirs, mine.contiguous(), received, sent)
        return theirs


def all_rows(mine_R: Tensor, world_size: int) -> Tensor:
    """Return the rows of all ranks, rising; no two have one in common."""
    if world_size == 1:
        return mine_R.sort().values
    length = torch.tensor(len(mine_R), device=mine_R.device)
    every = [torch.empty_like(length) for _ in range(world_size)]
    dist.all_gather(every, length)
    sizes = torch.stack(every).tolist()
    sent = mine_R.new_zeros(max(sizes))
    sent[: len(mine_R)] = mine_R
    parts = [torch.empty_like(sent) for _ in range(world_size)]
    dist.all_gather(parts, sent)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]).sort().values
