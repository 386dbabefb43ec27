"""TorchRec's estimators at measured speeds, through their hooks for kernels and for bandwidths."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torchrec.distributed.planner.estimator.annotations import backward_compute, forward_compute
from torchrec.distributed.planner.estimator.estimator import get_embedding_perf_sharding_evaluator
from torchrec.distributed.planner.estimator.types import ShardPerfContext
from torchrec.distributed.planner.types import BasicCommsBandwidths, CollectiveType

from sharding.estimates import ListedPerfConfig
from sharding.measured import Collective, Measured, Pass

if TYPE_CHECKING:
    from sharding.hardware import Hardware

# The kernels that were measured keep their tables where tables live by default.
_KERNELS = frozenset({"fused", "dense"})
_KINDS: dict[CollectiveType, Collective] = {
    CollectiveType.ALL_TO_ALL: "all_to_all",
    CollectiveType.ALL_REDUCE: "all_reduce",
    CollectiveType.REDUCE_SCATTER: "reduce_scatter",
    CollectiveType.ALL_GATHER: "all_gather",
}


class MeasuredPerfConfig(ListedPerfConfig):
    """Lookups and updates by what was measured; other kernels as TorchRec has it.

    Args:
        measured: of the ranks' hardware.
    """

    def __init__(self, measured: Measured) -> None:
        self._measured = measured

    @forward_compute
    def looked_up(self, shard: ShardPerfContext) -> float:
        """Return milliseconds of a shard's forward pass, with what the table adds to the step."""
        if shard.compute_kernel not in _KERNELS:
            evaluator = get_embedding_perf_sharding_evaluator(shard.sharding_type)
            return float(evaluator._default_fwd_comp(shard, self))
        return self._measured.table_overhead_ms + self._time("forward", shard)

    @backward_compute
    def updated(self, shard: ShardPerfContext) -> float:
        """Return milliseconds of a shard's backward pass and update."""
        if shard.compute_kernel not in _KERNELS:
            evaluator = get_embedding_perf_sharding_evaluator(shard.sharding_type)
            return float(evaluator._default_bwd_comp(shard, self))
        return self._time("backward", shard)

    def _time(self, which: Pass, shard: ShardPerfContext) -> float:
        batches, parts = float(shard.world_size), 1.0
        if shard.sharding_type == "data_parallel":
            batches = 1.0
        elif shard.sharding_type == "row_wise":
            parts = shard.world_size
        elif shard.sharding_type in ("table_row_wise", "grid_shard"):
            parts = shard.intra_group_size
        ids = shard.batch_inputs * batches / parts
        return self._measured.lookup_ms(
            which,
            ids=ids,
            # Every rank that holds rows of a table makes a vector for each bag, if only of zeros.
            bags=shard.batch_outputs * batches if shard.is_pooled else ids,
            dim=shard.emb_dim,
            table_bytes=shard.hash_size * shard.emb_dim * shard.table_data_type_size,
            value_bytes=shard.table_data_type_size,
        )


class MeasuredBandwidths(BasicCommsBandwidths):
    """Bandwidths of collectives, bytes/ms: measured among as many ranks, else those of the links.

    Args:
        hardware: of the ranks, with what was measured on it.
    """

    def __init__(self, hardware: Hardware) -> None:
        super().__init__(hardware.nic_gbps * 1e6, hardware.nvlink_gbps * 1e6)
        self._measured = hardware.measured

    def get_bw(self, local_world_size: int, world_size: int, collective_type: CollectiveType) -> float:
        """Return the bandwidth of a collective among `world_size` ranks, so many of them on a node."""
        nodes = max(1, world_size // local_world_size)
        rate = None
        if self._measured is not None and world_size == 1:
            return math.inf  # What TorchRec copies for a rank that is alone is part of the measured lookups.
        if self._measured is not None:
            rate = self._measured.collective(_KINDS[collective_type], world_size, nodes)
        if rate is not None:
            return rate.gbps * 1e6
        return float(super().get_bw(local_world_size, world_size, collective_type))
