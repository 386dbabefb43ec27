"""The buckets of ids that a rank holds: tables of one policy and size of bucket share their operations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from sharding.id_buckets import FIRST_SLOT, NO_SLOT, OOV_ROW, BucketShape, IdBuckets, IdPolicy, bucket_of


@dataclass(frozen=True)
class TableIds:
    """Ids of several tables, U of them, all different; they rise within each table, and tables rise.

    Attributes:
        tables_U: number of the table.
        ids_U: ids.
        counts_U: how often each was looked up.
    """

    tables_U: Tensor
    ids_U: Tensor
    counts_U: Tensor

    @classmethod
    def of(cls, tables_N: Tensor, ids_N: Tensor, counts_N: Tensor) -> tuple[TableIds, Tensor]:
        """Return the distinct ones of some ids, and for each id its place among them."""
        values, place_N = torch.unique(ids_N, return_inverse=True)
        size = max(1, len(values))
        key_U, inverse_N = torch.unique(tables_N * size + place_N, return_inverse=True)
        counts_U = torch.zeros_like(key_U).index_add_(0, inverse_N, counts_N)
        return cls(key_U // size, values[key_U % size], counts_U), inverse_N


@dataclass(frozen=True)
class TableShare:
    """The buckets of a table that are here.

    Attributes:
        shape: of all its buckets.
        mine: the buckets here.
        policy: of the table.
    """

    shape: BucketShape
    mine: range
    policy: IdPolicy


@dataclass(frozen=True)
class RowChange:
    """What one step did to the tables here.

    Attributes:
        rows_U: the row of each id of the step, `OOV_ROW` where it has no slot.
        admitted_A: which of them are new owners of their row.
        evicted_V: the table of each id that lost its slot, to a newcomer or by age.
    """

    rows_U: Tensor
    admitted_A: Tensor
    evicted_V: Tensor


@dataclass(frozen=True)
class _Group:
    """Tables of one policy and one number of slots: their numbers, and the first bucket of each."""

    buckets: IdBuckets
    tables_K: Tensor
    first_K: Tensor

    def table_of(self, bucket_V: Tensor) -> Tensor:
        # A table without buckets here begins where the next one does, which comes after it.
        return self.tables_K[torch.bucketize(bucket_V, self.first_K, right=True) - 1]


class IdShare:
    """The rows of ids in the buckets of this rank.

    Args:
        tables: in the order of their numbers.
        device: of the state.
    """

    def __init__(self, tables: Sequence[TableShare], device: torch.device | str = "cpu") -> None:
        kinds = [(table.policy, table.shape.slots) for table in tables]
        self._groups: list[_Group] = []
        self._place = [(0, 0)] * len(tables)

        def numbers(values: Iterable[int]) -> Tensor:
            return torch.tensor(list(values), dtype=torch.int64, device=device)

        for policy, slots in dict.fromkeys(kinds):
            members = [number for number, kind in enumerate(kinds) if kind == (policy, slots)]
            *first, size = accumulate((len(tables[number].mine) for number in members), initial=0)
            for number, bucket in zip(members, first, strict=True):
                self._place[number] = len(self._groups), bucket
            buckets = IdBuckets(size, slots, policy, device)
            self._groups.append(_Group(buckets, numbers(members), numbers(first)))
        self._sizes = [len(table.mine) for table in tables]
        # From a bucket of the table to that of the group, and from a slot of the group to the row.
        shift = [first - table.mine.start for (_, first), table in zip(self._place, tables, strict=True)]
        row = [FIRST_SLOT - by * table.shape.slots for by, table in zip(shift, tables, strict=True)]
        self._shift_K, self._row_K = numbers(shift), numbers(row)
        self._group_K = numbers(group for group, _ in self._place)
        self._buckets_K = numbers(table.shape.buckets for table in tables)

    def bucket_of(self, tables_N: Tensor, ids_N: Tensor) -> Tensor:
        """Return the bucket of each id in its table."""
        return bucket_of(ids_N, self._buckets_K[tables_N])

    def rows_of(self, ids: TableIds, step: int) -> Tensor:
        """Return the row of each id, `OOV_ROW` where it has no slot.

        Args:
            ids: of buckets here.
            step: now; ids may have aged since their bucket was last updated.
        """
        bucket_U, slots_U = self._local(ids), torch.empty_like(ids.ids_U)
        for group, chosen_N in self._by_group(ids.tables_U):
            slots_U[chosen_N] = group.buckets.slots_of(bucket_U[chosen_N], ids.ids_U[chosen_N], step)
        return self._rows(ids.tables_U, slots_U)

    def update(self, ids: TableIds, step: int) -> RowChange:
        """Count the ids of one step, and admit and evict.

        Args:
            ids: of buckets here, none `EMPTY`.
            step: number of the step, from 1.
        """
        bucket_U, slots_U = self._local(ids), torch.empty_like(ids.ids_U)
        admitted, evicted = [bucket_U[:0]], [bucket_U[:0]]
        for group, chosen_N in self._by_group(ids.tables_U):
            asked = bucket_U[chosen_N], ids.ids_U[chosen_N], ids.counts_U[chosen_N]
            change = group.buckets.update(*asked, step)
            slots_U[chosen_N] = change.slots_N
            admitted.append(chosen_N[change.admitted_A])
            evicted.append(group.table_of(change.evicted_V))
        return RowChange(self._rows(ids.tables_U, slots_U), torch.cat(admitted), torch.cat(evicted))

    def held(self, step: int) -> list[tuple[int, int]]:
        """Return by table how many owners and how many candidates there are here."""
        return [buckets.held(mine, step) for buckets, mine in map(self._here, range(len(self._place)))]

    def state(self, table: int) -> dict[str, Tensor]:
        """Return what is known of a table's ids, in place: see `IdBuckets`."""
        buckets, mine = self._here(table)
        held = {"ids": buckets.ids_BE, "counts": buckets.counts_BE, "seen": buckets.seen_BE}
        return {key: values[mine] for key, values in held.items()}

    def _here(self, table: int) -> tuple[IdBuckets, slice]:
        group, first = self._place[table]
        return self._groups[group].buckets, slice(first, first + self._sizes[table])

    def _by_group(self, tables_U: Tensor) -> Iterator[tuple[_Group, Tensor]]:
        """Yield each group and which ids are of its tables."""
        group_U = self._group_K[tables_U]
        for number, group in enumerate(self._groups):
            yield group, (group_U == number).nonzero().squeeze(1)

    def _local(self, ids: TableIds) -> Tensor:
        return self.bucket_of(ids.tables_U, ids.ids_U) + self._shift_K[ids.tables_U]

    def _rows(self, tables_U: Tensor, slots_U: Tensor) -> Tensor:
        return torch.where(slots_U == NO_SLOT, OOV_ROW, slots_U + self._row_K[tables_U])
