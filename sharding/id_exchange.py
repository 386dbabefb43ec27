"""Ids to the ranks that keep their buckets, and the answers back: three exchanges for all tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Brought:
    """What the ranks ask of this one, rank after rank and table after table within.

    Attributes:
        ids_N: ids.
        counts_N: how often each was looked up.
        tables_N: number of the table.
        received: pairs that came from each rank.
        sent: pairs that went to each rank.
        order: of what this rank sent, as places in the tables' ids end to end.
        lengths: ids that this rank asked for in each table.
    """

    ids_N: Tensor
    counts_N: Tensor
    tables_N: Tensor
    received: list[int]
    sent: list[int]
    order: Tensor
    lengths: list[int]

    def of(self, table: int) -> tuple[Tensor, Tensor]:
        """Return ids and counts of one table."""
        chosen = self.tables_N == table
        return self.ids_N[chosen], self.counts_N[chosen]


class IdExchange:
    """Brings ids to their owners and rows back, over the default process group.

    Args:
        world_size: ranks.
        num_tables: tables with ids.
        device: of the tensors.
    """

    def __init__(self, world_size: int, num_tables: int, device: torch.device) -> None:
        self._world_size, self._num_tables, self._device = world_size, num_tables, device

    def to_owners(self, asked: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Brought:
        """Send ids to their owners.

        Args:
            asked: for each table owner, id and count, int64 [U] each.
        """
        key = torch.cat([owner * self._num_tables + number for number, (owner, _, _) in enumerate(asked)])
        pairs = torch.stack([torch.cat([part[i] for part in asked]) for i in (1, 2)], dim=1)
        order = key.sort(stable=True).indices
        sizes = torch.bincount(key, minlength=self._world_size * self._num_tables)
        theirs = self._exchanged(sizes)
        sent, received = (
            value.reshape(self._world_size, self._num_tables).sum(dim=1).tolist() for value in (sizes, theirs)
        )
        brought = self._exchanged(pairs[order], received, sent)
        numbers = torch.arange(self._num_tables, device=self._device).repeat(self._world_size)
        return Brought(
            brought[:, 0].contiguous(),
            brought[:, 1].contiguous(),
            numbers.repeat_interleave(theirs),
            received,
            sent,
            order,
            [len(owner) for owner, _, _ in asked],
        )

    def back(self, brought: Brought, answers: Sequence[Tensor]) -> list[Tensor]:
        """Return the rows of what this rank asked, table by table.

        Args:
            brought: what this rank was asked.
            answers: a row for each of `brought.of(table)`.
        """
        mine = torch.empty_like(brought.ids_N)
        for number, rows in enumerate(answers):
            mine[brought.tables_N == number] = rows
        found = self._exchanged(mine, brought.sent, brought.received)
        rows = torch.empty_like(found)
        rows[brought.order] = found
        return list(torch.split(rows, brought.lengths))

    def _exchanged(
        self, mine: Tensor, received: list[int] | None = None, sent: list[int] | None = None
    ) -> Tensor:
        """Send each rank its part of the rows, and return those that came; without sizes all are equal."""
        if self._world_size == 1:
            return mine
        theirs = mine.new_empty(len(mine) if received is None else sum(received), *mine.shape[1:])
        dist.all_to_all_single(theirs, mine.contiguous(), received, sent)
        return theirs


def all_rows(mine: Sequence[Tensor], world_size: int) -> list[Tensor]:
    """Return the rows of all ranks, rising, for each of several lists of rows."""
    if world_size == 1:
        return [rows.sort().values for rows in mine]
    lengths = torch.tensor([len(rows) for rows in mine], device=mine[0].device)
    every = [torch.empty_like(lengths) for _ in range(world_size)]
    dist.all_gather(every, lengths)
    sizes = [size.tolist() for size in every]
    longest = max(sum(size) for size in sizes)
    sent = mine[0].new_zeros(longest)
    sent[: int(lengths.sum())] = torch.cat(list(mine))
    parts = [torch.empty_like(sent) for _ in range(world_size)]
    dist.all_gather(parts, sent)
    split = [torch.split(part[: sum(size)], size) for part, size in zip(parts, sizes, strict=True)]
    return [torch.cat([rows[number] for rows in split]).sort().values for number in range(len(mine))]
