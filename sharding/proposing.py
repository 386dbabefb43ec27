"""The search as TorchRec's planner takes it: proposer and partitioner, and an enumerator in a fixed order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.types import (
    Partitioner,
    PlannerError,
    PlannerErrorType,
    Proposer,
    ShardingOption,
    Storage,
    Topology,
)

from sharding.placement import choice_of, memory_left
from sharding.search import Layout, find_layout


class OrderedEnumerator(EmbeddingEnumerator):
    """TorchRec's enumerator in a fixed order; its own follows the hash seed of the process."""

    def enumerate(self, *args: Any, **kwargs: Any) -> list[ShardingOption]:
        """Return the options by module, table, sharding type and kernel."""
        options = super().enumerate(*args, **kwargs)
        return sorted(options, key=lambda o: (o.path, o.name, o.sharding_type, o.compute_kernel))


class SearchProposer(Proposer):
    """Proposes the one plan that the search finds, with the ranks of its shards.

    Args:
        topology: the memory left on each rank.
        seconds: after which no better plan is sought.
        ranks: that a table may live on, by name of the table; those without an entry may live on all.
    """

    def __init__(
        self, topology: Topology, seconds: float = math.inf, ranks: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self._topology = topology
        self._seconds = seconds
        self._ranks = ranks or {}
        self._layout: Layout | None = None

    def load(self, search_space: list[ShardingOption], *_: Any, **__: Any) -> None:
        """Search among estimated options."""
        self._layout = _layout(search_space, self._topology, self._ranks, self._seconds)

    def propose(self) -> list[ShardingOption] | None:
        """Return the plan found, then nothing."""
        return None if self._layout is None else _with_ranks(self._layout)

    def feedback(self, *_: Any, **__: Any) -> None:
        """End after the one proposal."""
        self._layout = None


class SearchPartitioner(Partitioner):
    """Keeps the ranks that a proposal comes with, and searches for those of any other proposal.

    Args:
        ranks: that a table may live on, by name of the table.
    """

    def __init__(self, ranks: Mapping[str, Sequence[int]] | None = None) -> None:
        self._ranks = ranks or {}

    def partition(self, proposal: list[ShardingOption], storage_constraint: Topology) -> list[ShardingOption]:
        """Return the proposal with the rank of every shard.

        Raises:
            PlannerError: no layout within the memory of the ranks.
        """
        if any(shard.rank is None for option in proposal for shard in option.shards):
            layout = _layout(proposal, storage_constraint, self._ranks)
            if layout is None:
                raise PlannerError("the options fit no ranks", PlannerErrorType.PARTITION)
            proposal = _with_ranks(layout)
        _check_memory(proposal, storage_constraint)
        return proposal


def _layout(
    options: list[ShardingOption],
    topology: Topology,
    ranks: Mapping[str, Sequence[int]],
    seconds: float = math.inf,
) -> Layout | None:
    tables: dict[str, list[ShardingOption]] = {}
    for option in options:
        tables.setdefault(option.fqn, []).append(option)
    local = topology.intra_group_size
    masks = {name: np.isin(np.arange(topology.world_size), list(allowed)) for name, allowed in ranks.items()}
    choices = [[choice_of(o, local, masks.get(o.name)) for o in found] for found in tables.values()]
    return find_layout(choices, memory_left(topology), local, seconds)


def _with_ranks(layout: Layout) -> list[ShardingOption]:
    for choice, places in zip(layout.chosen, layout.places, strict=True):
        ranks = [
            first + number
            for block, first in zip(choice.blocks, places, strict=True)
            for number in range(block.size)
        ]
        for shard, rank in zip(choice.option.shards, ranks, strict=True):
            shard.rank = rank
    return [choice.option for choice in layout.chosen]


def _check_memory(plan: list[ShardingOption], topology: Topology) -> None:
    used = [Storage(0, 0)] * topology.world_size
    for option in plan:
        for shard in option.shards:
            used[shard.rank] += shard.storage
    for device in topology.devices:
        if not used[device.rank].fits_in(device.storage):
            raise PlannerError(f"rank {device.rank} lacks memory", PlannerErrorType.PARTITION)
