"""Estimates of sharding options in a time that does not grow with the number of ranks.

The figures are TorchRec's. Its estimators reckon every shard anew and search the hardware config for
annotated methods each time; here each size of shard is reckoned once per option, and the config is searched
once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from torchrec.distributed.planner.estimator.config import EmbeddingPerfEstimatorConfig
from torchrec.distributed.planner.estimator.estimator import EmbeddingPerfEstimator
from torchrec.distributed.planner.types import (
    ParameterConstraints,
    Shard,
    SharderDataMap,
    ShardEstimator,
    ShardingOption,
    Topology,
)


class ListedPerfConfig(EmbeddingPerfEstimatorConfig):
    """TorchRec's default config, whose annotated methods are listed once.

    TorchRec walks `dir(config)` for annotations several times a shard, most of the time that estimates take.
    """

    @cached_property
    def _annotated(self) -> list[str]:
        # An annotation is an attribute that a decorator has set on the method.
        return [
            name for name in super().__dir__() if getattr(getattr(type(self), name, None), "__dict__", None)
        ]

    def __dir__(self) -> Iterable[str]:
        """Return the names of annotated methods."""
        return self._annotated


class Shards(list[Shard]):
    """Shards of one option; a copy shares what planning never changes."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Shards:
        return Shards(Shard(s.size, s.offset, s.storage, s.perf, s.rank) for s in self)


class DistinctShardEstimator(ShardEstimator):
    """Runs estimators on one shard of each size and gives their figures to all shards of that size."""

    def __init__(
        self,
        topology: Topology,
        constraints: dict[str, ParameterConstraints] | None = None,
        estimators: Sequence[ShardEstimator] = (),
        config: ListedPerfConfig | None = None,
    ) -> None:
        self._estimators = [
            EmbeddingPerfEstimator(topology, constraints, config=config or ListedPerfConfig()),
            *estimators,
        ]

    def estimate(self, sharding_options: list[ShardingOption], sharder_data_map: SharderDataMap) -> None:
        """Fill in `shard.perf` and `shard.storage` of every option."""
        complete = [option.shards for option in sharding_options]
        for option in sharding_options:
            option.shards = list({(shard.size[0], shard.size[1]): shard for shard in option.shards}.values())
        for estimator in self._estimators:
            estimator.estimate(sharding_options, sharder_data_map)
        for option, shards in zip(sharding_options, complete, strict=True):
            known = {(shard.size[0], shard.size[1]): shard for shard in option.shards}
            for shard in shards:
                first = known[shard.size[0], shard.size[1]]
                shard.perf, shard.storage = first.perf, first.storage
            option.shards = Shards(shards)
