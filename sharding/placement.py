"""Ranks and what is placed on them, as arrays: the ground on which the search for a plan works.

An option of a table is a few blocks of shards that stay together: one shard on every rank (row_wise,
data_parallel), one on every rank of a host (table_row_wise, a column block of grid_shard), or a single one.
A block therefore lies on consecutive ranks, and its place is the first of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torchrec.distributed.planner.types import ShardingOption, Storage, Topology

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Places = tuple[int, ...]
"""First rank of each block of a choice."""
# Times that differ by less are equal, and memory decides.
_TIE = 1 + 1e-9


@dataclass(frozen=True, eq=False)
class Block:
    """Shards on consecutive ranks.

    Attributes:
        scope: on every rank, on every rank of some host, or on some rank.
        perf: milliseconds of each shard, [n].
        memory: bytes of each shard in HBM, in host memory and on SSD, [3, n].
    """

    scope: Literal["all", "host", "rank"]
    perf: FloatArray
    memory: IntArray

    @cached_property
    def size(self) -> int:
        """Return the number of shards."""
        return len(self.perf)

    @cached_property
    def needs(self) -> tuple[tuple[int, IntArray], ...]:
        """Return the kinds of memory that the block needs, and how much of them, [n]."""
        return tuple((kind, needed) for kind, needed in enumerate(self.memory) if needed.any())

    @cached_property
    def kind(self) -> int:
        """Return the kind of memory that the block needs most."""
        return int(self.memory.sum(axis=1).argmax())


@dataclass(frozen=True, eq=False)
class Choice:
    """One way of sharding a table.

    Attributes:
        option: TorchRec's option.
        blocks: in the order of its shards.
        on_one_host: whether all blocks must share a host (table_column_wise).
        allowed: ranks that the table may live on, [world size]; None for all.
    """

    option: ShardingOption
    blocks: tuple[Block, ...]
    on_one_host: bool = False
    allowed: BoolArray | None = None

    @cached_property
    def work(self) -> float:
        """Return the milliseconds of all shards together."""
        return float(sum(block.perf.sum() for block in self.blocks))

    @cached_property
    def peak(self) -> float:
        """Return the milliseconds of the slowest shard."""
        return float(max(block.perf.max() for block in self.blocks))

    @cached_property
    def bytes(self) -> int:
        """Return the bytes of all shards together."""
        return int(sum(block.memory.sum() for block in self.blocks))

    @cached_property
    def largest_shard(self) -> int:
        """Return the bytes of the largest shard."""
        return int(max(block.memory.max() for block in self.blocks))


def choice_of(option: ShardingOption, local_world_size: int, allowed: BoolArray | None = None) -> Choice:
    """Return an estimated option of TorchRec's in arrays.

    Args:
        option: with its estimates.
        local_world_size: ranks of a host.
        allowed: ranks that the table may live on, [world size]; None for all.
    """
    # Shards of one size share their estimate.
    totals = {id(shard.perf): shard.perf.total for shard in option.shards}
    perf = np.array([totals[id(shard.perf)] for shard in option.shards])
    memory = _by_kind([shard.storage for shard in option.shards])
    kind = option.sharding_type
    if kind in ("row_wise", "data_parallel"):
        return Choice(option, (Block("all", perf, memory),), allowed=allowed)
    if kind in ("table_row_wise", "grid_shard"):
        scope: Literal["host", "rank"] = "host"
        step = local_world_size
    else:
        scope, step = "rank", 1
    blocks = tuple(
        Block(scope, perf[first : first + step], memory[:, first : first + step])
        for first in range(0, len(perf), step)
    )
    return Choice(option, blocks, on_one_host=kind == "table_column_wise", allowed=allowed)


def memory_left(topology: Topology) -> IntArray:
    """Return the bytes that each rank has, [3, world size]."""
    return _by_kind([device.storage for device in topology.devices])


def _by_kind(storages: Sequence[Storage]) -> IntArray:
    return np.array(
        [[s.hbm for s in storages], [s.ddr for s in storages], [s.ssd for s in storages]], np.int64
    )


class Ranks:
    """Time and memory of each rank under the tables placed so far.

    Attributes:
        perf: milliseconds, [world size].
        left: bytes left in HBM, in host memory and on SSD, [3, world size].
        local: ranks of a host.
    """

    def __init__(self, left: IntArray, local: int) -> None:
        self.perf: FloatArray = np.zeros(left.shape[1])
        self.left = left.copy()
        self.local = local

    @property
    def hosts(self) -> int:
        """Return the number of hosts."""
        return len(self.perf) // self.local

    def add(self, choice: Choice, *, by_memory: bool = False) -> Places | None:
        """Place a choice where it keeps times lowest, or return None where it does not fit.

        Args:
            choice: to place.
            by_memory: put it where most memory is left instead.
        """
        if choice.on_one_host and len(choice.blocks) > 1:
            return self._add_on_one_host(choice, by_memory)
        return self._add_blocks(choice, by_memory, 0, len(self.perf))

    def put(self, choice: Choice, places: Places) -> None:
        """Place a choice where it has been before."""
        for block, first in zip(choice.blocks, places, strict=True):
            self._put(block, first)

    def _put(self, block: Block, first: int) -> None:
        end = first + block.size
        self.perf[first:end] += block.perf
        # Few blocks need all kinds, and this is what the search does most.
        for kind, needed in block.needs:
            self.left[kind, first:end] -= needed

    def remove(self, choice: Choice, places: Sequence[int]) -> None:
        """Take a choice off, or as many of its blocks as there are places."""
        for block, first in zip(choice.blocks, places, strict=False):
            end = first + block.size
            self.perf[first:end] -= block.perf
            for kind, needed in block.needs:
                self.left[kind, first:end] += needed

    def _add_on_one_host(self, choice: Choice, by_memory: bool) -> Places | None:
        score = -self.left[0] if by_memory and self.left[0].any() else self.perf
        for host in np.argsort(score.reshape(self.hosts, self.local).sum(axis=1), kind="stable"):
            first = int(host) * self.local
            places = self._add_blocks(choice, by_memory, first, first + self.local)
            if places is not None:
                return places
        return None

    def _add_blocks(self, choice: Choice, by_memory: bool, start: int, end: int) -> Places | None:
        places: list[int] = []
        for block in choice.blocks:
            place = self._find(block, places, by_memory, start, end, choice.allowed)
            if place is None:
                self.remove(choice, places)
                return None
            self._put(block, place)
            places.append(place)
        return tuple(places)

    def _find(
        self,
        block: Block,
        taken: Sequence[int],
        by_memory: bool,
        start: int,
        end: int,
        allowed: BoolArray | None,
    ) -> int | None:
        if block.scope == "all":
            return 0 if all((self.left[kind] >= needed).all() for kind, needed in block.needs) else None
        if block.scope == "rank":
            fits = [self.left[kind, start:end] >= needed for kind, needed in block.needs]
            fits += [] if allowed is None else [allowed[start:end]]
            place = _lowest(self.perf[start:end], fits, self.left[block.kind, start:end], by_memory)
            return None if place is None else start + place
        hosts = (self.hosts, self.local)
        after = (self.perf.reshape(hosts) + block.perf).max(axis=1)
        whole = None if allowed is None else allowed.reshape(hosts).all(axis=1)
        in_turn = self.hosts if whole is None else int(whole.sum())
        # The column blocks of a grid take hosts in turn.
        round_ = taken[len(taken) // in_turn * in_turn :]
        after[[first // self.local for first in round_]] = np.inf
        fits = [(self.left[kind].reshape(hosts) >= needed).all(axis=1) for kind, needed in block.needs]
        fits += [] if whole is None else [whole]
        host = _lowest(after, fits, self.left[block.kind].reshape(hosts).min(axis=1), by_memory)
        return None if host is None else host * self.local


def _lowest(score: FloatArray, fits: Sequence[BoolArray], left: IntArray, by_memory: bool) -> int | None:
    """Return the fitting place of the lowest score, that with most memory left among equals."""
    for fit in fits:
        score = np.where(fit, score, np.inf)
    least = score[score.argmin()]
    if least == np.inf:
        return None
    equal = score < np.inf if by_memory else score <= least * _TIE
    return int(np.where(equal, left, -1).argmax())
