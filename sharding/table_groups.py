"""Groups of ranks that hold a copy of all tables each (2-D sparse parallelism): sizes, what a sync sends.

Tables are sharded within a group by the plan of one group. A group updates its copy by the gradients of its
own ranks, averaged over them; every few steps a sync averages the copies, weights and optimizer state, over
the groups. Groups are neighbours in rank order: the exchange of embeddings, in every step, stays inside a
group, and the sync crosses hosts unless groups are parts of a host.

Source: Zhang et al. 2025, arXiv:2508.03854, on 2-D sparse parallelism.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sharding.errors import PlanError
from sharding.tables import TableSpec
from sharding.traffic import Traffic, all_reduce_traffic


@dataclass(frozen=True)
class TableGroups:
    """Which ranks hold one copy of the tables together.

    Attributes:
        world_size: ranks in all.
        local_world_size: ranks of a host.
        shard_group_size: neighbouring ranks that hold one copy.
        sync_every_steps: steps from one averaging of the copies to the next.
        timeout_seconds: how long a rank waits for the others of its groups.
    """

    world_size: int
    local_world_size: int
    shard_group_size: int
    sync_every_steps: int = 1
    timeout_seconds: float = 120

    @property
    def count(self) -> int:
        """Return the number of groups, which is that of copies."""
        return self.world_size // self.shard_group_size

    @property
    def ranks_on_a_host(self) -> int:
        """Return the ranks of a group that share a host."""
        return min(self.local_world_size, self.shard_group_size)

    def first_rank(self, rank: int) -> int:
        """Return the first rank of the group of a rank."""
        return rank // self.shard_group_size * self.shard_group_size

    def sync_traffic(self, size: float) -> Traffic:
        """Return what a rank sends when a sync averages `size` bytes of its tables; nothing for one group."""
        on_host = self.local_world_size // self.ranks_on_a_host
        return all_reduce_traffic(size, on_host, self.count // on_host)


def table_groups(
    world_size: int,
    local_world_size: int,
    shard_group_size: int | None = None,
    *,
    sync_every_steps: int = 1,
    timeout_seconds: float = 120,
) -> TableGroups:
    """Return the groups of a run. One rank alone holds everything, whatever the size.

    Args:
        world_size: ranks in all.
        local_world_size: ranks of a host.
        shard_group_size: ranks that hold one copy; default all.
        sync_every_steps: steps from one sync to the next.
        timeout_seconds: how long a rank waits for the others of its groups.

    Raises:
        PlanError: groups of this size do not make up the ranks, or neither fill hosts nor divide them.
    """
    size = shard_group_size
    if size is None or world_size == 1:
        size = world_size
    elif not _fits(size, world_size, local_world_size):
        raise _no_groups(size, world_size, local_world_size)
    return TableGroups(world_size, local_world_size, size, sync_every_steps, timeout_seconds)


def _fits(size: int, world_size: int, local: int) -> bool:
    # TorchRec's types inside a host take its ranks, or those of a part of it, for neighbours of one group.
    return world_size % size == 0 and (size % local == 0 or local % size == 0)


def check_kernels(tables: Sequence[TableSpec], groups: TableGroups) -> None:
    """Refuse kernels whose tables a sync does not reach: they keep weights outside HBM, or part of them.

    Raises:
        PlanError: there are several groups, and a table names such a kernel.
    """
    allowed = ("fused", "dense")
    for table in tables:
        others = [kernel for kernel in table.compute_kernels or () if kernel not in allowed]
        if others and groups.count > 1:
            raise PlanError(
                "a sync of table groups averages weights that the kernel keeps as a whole in memory",
                where=f"tables.{table.name}.compute_kernels",
                got=", ".join(others),
                allowed=allowed,
                fixes=[
                    f"tables.{table.name}.compute_kernels: [fused]",
                    "leave train.table_shard_group_size out (one copy over all ranks)",
                ],
            )


@contextmanager
def in_groups(groups: TableGroups) -> Iterator[None]:
    """Say in a planning error that each of several groups must hold all tables."""
    try:
        yield
    except PlanError as error:
        if groups.count == 1:
            raise
        ranks, local, size = groups.world_size, groups.local_world_size, groups.shard_group_size
        larger = [number for number in range(size + 1, ranks) if _fits(number, ranks, local)]
        raise type(error)(
            error.what,
            where=f"{error.where}, one of {groups.count} groups that hold all tables each",
            got=error.got,
            allowed=error.allowed,
            fixes=[
                *(f"train.table_shard_group_size: {number}" for number in larger[:1]),
                "leave train.table_shard_group_size out (one copy over all ranks)",
                *(fix for fix in error.fixes if not fix.startswith("--cluster")),
            ],
            also=error.also,
        ) from error


def _no_groups(size: int, world_size: int, local: int) -> PlanError:
    allowed = [number for number in range(2, world_size + 1) if _fits(number, world_size, local)]
    what = "does not divide the ranks evenly"
    if world_size % size == 0:
        what = "neither fills hosts nor divides them"
    nearest = min(allowed, key=lambda number: abs(number - size))
    return PlanError(
        f"a group of ranks that shares one copy of the tables {what}",
        where="train.table_shard_group_size",
        got=f"{size}, {world_size} ranks, {local} on each host",
        allowed=allowed,
        fixes=[
            f"train.table_shard_group_size: {nearest}",
            "leave train.table_shard_group_size out (one copy over all ranks)",
        ],
    )
