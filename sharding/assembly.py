"""From the options that TorchRec's planner chose to the records of our plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torchrec.distributed.planner.types import Perf, ShardingOption
from torchrec.distributed.planner.types import Shard as TorchrecShard
from torchrec.modules.embedding_configs import DATA_TYPE_NUM_BITS

from sharding.candidates import ROW_MOMENT_OPTIMIZERS
from sharding.communication import FULL_PRECISION, TableCommunication
from sharding.measured import exchange_latency_ms
from sharding.memory import MemoryBudget, gradient_bytes, host_state_bytes, optimizer_bytes, weight_bytes
from sharding.rank_plan import RankMemory, RankStep
from sharding.sharders import COLUMN_SPLITS
from sharding.ssd import KEY_VALUE, key_value_bytes
from sharding.table_groups import TableGroups
from sharding.table_plan import Shard, TablePlan
from sharding.tables import TableSpec
from sharding.topology import Cluster
from sharding.traffic import ShardUse, Traffic, TrafficCount, all_reduce_traffic

_TABLE_PARTS = (
    "weights",
    "optimizer",
    "gradients",
    "cache",
    "input_buffers",
    "output_buffers",
    "pipeline_copies",
    "host_weights",
    "host_optimizer",
    "host_buffers",
    "ssd_weights",
)


def table_plans(
    options: Sequence[ShardingOption], tables: Sequence[TableSpec], optimizer: str
) -> tuple[TablePlan, ...]:
    """Return one record for each table, in the order of the table list."""
    chosen = {option.name: option for option in options}
    return tuple(_table_plan(chosen[table.name], table, optimizer) for table in tables)


def _table_plan(option: ShardingOption, table: TableSpec, optimizer: str) -> TablePlan:
    counts = {size: len(shards) for size, shards in _by_size(option).items()}
    return TablePlan(
        name=table.name,
        module=option.path,
        num_embeddings=table.num_embeddings,
        embedding_dim=table.embedding_dim,
        data_type=table.data_type,
        pooling=table.pooling,
        sharding_type=option.sharding_type,
        compute_kernel=option.compute_kernel,
        cache_load_factor=option.cache_params.load_factor if option.cache_params else None,
        shards=tuple(Shard(shard.rank, *shard.offset, *shard.size) for shard in option.shards),
        weight_bytes=sum(count * weight_bytes(table, *size) for size, count in counts.items()),
        optimizer_bytes=sum(count * optimizer_bytes(optimizer, *size) for size, count in counts.items()),
        relative_ms=round(max(shard.perf.total for shard in option.shards), 6),
        enforce_hbm=table.enforce_hbm,
        stochastic_rounding=table.stochastic_rounding,
        bounds_check_mode=table.bounds_check_mode,
    )


def rank_memory(
    options: Sequence[ShardingOption],
    tables: Sequence[TableSpec],
    cluster: Cluster,
    budget: MemoryBudget,
    optimizer: str,
    communication: TableCommunication = FULL_PRECISION,
) -> tuple[RankMemory, ...]:
    """Return what each rank holds and does, by what it is for."""
    specs = {table.name: table for table in tables}
    sums = _fixed_costs(options, cluster)
    traffic = TrafficCount(cluster, options[0].batch_size if options else 0, communication)
    for option in options:
        for (rows, _), shards in _by_size(option).items():
            size = _bytes_of(option, shards[0], specs[option.name], cluster, optimizer)
            ranks = [int(shard.rank or 0) for shard in shards]
            # Shards of one size share their estimate.
            sums.add(ranks, size, shards[0].perf)
            if rows:
                traffic.add(_use(option, shards[0], size), ranks)
    return tuple(_rank(rank, sums, sent, budget) for rank, sent in enumerate(traffic.by_rank()))


def _by_size(option: ShardingOption) -> dict[tuple[int, int], list[TorchrecShard]]:
    """Return the shards by rows and columns: a table may have one of the same size on every rank."""
    found: dict[tuple[int, int], list[TorchrecShard]] = {}
    for shard in option.shards:
        rows, columns = shard.size
        found.setdefault((rows, columns), []).append(shard)
    return found


def _fixed_costs(options: Sequence[ShardingOption], cluster: Cluster) -> _RankSums:
    """Return for each rank what a step takes whatever its tables are, where that was measured."""
    measured, ranks = cluster.rank_hardware.measured, cluster.world_size
    groups = {(option.path, option.sharding_type): option.is_pooled for option in options}
    uses = [(kind, pooled) for (_, kind), pooled in groups.items()]
    exchange_ms, input_ms = exchange_latency_ms(uses, measured, ranks, cluster.nodes)
    compute_ms = 0.0 if measured is None else measured.step_overhead_ms * len(groups)
    return _RankSums(ranks, compute_ms, exchange_ms, input_ms)


def _use(option: ShardingOption, shard: TorchrecShard, size: Counter[str]) -> ShardUse:
    return ShardUse(
        kind=option.sharding_type,
        columns=shard.size[1],
        features=len(option.input_lengths),
        ids=sum(option.input_lengths),
        pooled=option.is_pooled,
        gradient_bytes=size["gradients"],
    )


def _bytes_of(
    option: ShardingOption, shard: TorchrecShard, table: TableSpec, cluster: Cluster, optimizer: str
) -> Counter[str]:
    """Return the bytes of a shard by what they are for; `used` and `host` sum them up as the planner does."""
    rows, columns = shard.size
    on_gpu = cluster.device == "cuda"
    in_host = "uvm" in option.compute_kernel and not table.enforce_hbm
    used = shard.storage.hbm if on_gpu else shard.storage.ddr
    on_ssd = option.compute_kernel == KEY_VALUE
    where = "ssd_" if on_ssd else "host_" if in_host else ""
    host_state = host_state_bytes(table, option.compute_kernel, optimizer, rows, columns)
    size = Counter(
        {
            f"{where}weights": weight_bytes(table, rows, columns),
            "optimizer": optimizer_bytes(optimizer, rows, columns) - host_state,
            "host_optimizer": host_state,
            "host_buffers": shard.storage.ddr if on_ssd else 0,
            "gradients": gradient_bytes(table, option.sharding_type, rows, columns),
        }
    )
    use = _use(option, shard, size)
    ids = round(use.input_bytes(option.batch_size, cluster)) if rows else 0
    size["input_buffers"], size["pipeline_copies"] = ids, ids if on_gpu else 0
    rest = (
        used - ids * (2 if on_gpu else 1) - sum(size[name] for name in ("weights", "optimizer", "gradients"))
    )
    output = rest
    if on_ssd:
        size["cache"] = key_value_bytes(table, rows, columns, size["ssd_weights"] // max(1, rows)).cache
        output = rest - size["cache"]
    elif "uvm" in option.compute_kernel:
        batches = 1 if not use.pooled and use.kind == "row_wise" else cluster.world_size
        vectors = use.vector_bytes(option.batch_size)
        if option.output_dtype is not None:
            vectors *= DATA_TYPE_NUM_BITS[option.output_dtype] / 32
        output = min(rest, round(vectors * batches))
        size["cache"] = max(0, rest - output)
    size["output_buffers"] = max(0, output)
    size["used"] = used
    return size


class _RankSums:
    """Sums over the shards of each rank, [world size], from what a step takes without any."""

    def __init__(self, ranks: int, compute_ms: float, exchange_ms: float, input_ms: float) -> None:
        self.size = {name: np.zeros(ranks, np.int64) for name in (*_TABLE_PARTS, "used")}
        self.compute_ms = np.full(ranks, compute_ms)
        self.exchange_ms = np.full(ranks, exchange_ms)
        self.input_ms = np.full(ranks, input_ms)

    def add(self, ranks: Sequence[int], size: Counter[str], perf: Perf) -> None:
        """Add a shard on each of some ranks."""
        shards = np.bincount(ranks, minlength=len(self.compute_ms))
        for name, count in size.items():
            self.size[name] += shards * count
        self.compute_ms += shards * (perf.fwd_compute + perf.bwd_compute + perf.prefetch_compute)
        self.exchange_ms += shards * (perf.fwd_comms + perf.bwd_comms)
        self.input_ms += shards * perf.input_dist_comms


def _rank(rank: int, sums: _RankSums, traffic: Traffic, budget: MemoryBudget) -> RankMemory:
    size = {name: int(of_rank[rank]) for name, of_rank in sums.size.items()}
    compute_ms, exchange_ms, input_ms = (
        round(float(of_rank[rank]), 6) for of_rank in (sums.compute_ms, sums.exchange_ms, sums.input_ms)
    )
    dense = budget.dense
    return RankMemory(
        rank=rank,
        **{name: size[name] for name in _TABLE_PARTS},
        dense_weights=dense.weights + dense.gathered,
        dense_gradients=dense.gradients,
        dense_optimizer=dense.optimizer,
        activations=dense.activations,
        reserve=int(budget.capacity_bytes * budget.reserve_share),
        memory_used=size["used"] + dense.total + dense.activations + budget.id_slots,
        id_slots=budget.id_slots,
        step=RankStep(compute_ms, exchange_ms, input_ms, traffic),
    )


def over_groups(
    memory: Sequence[RankMemory], groups: TableGroups, cluster: Cluster
) -> tuple[RankMemory, ...]:
    """Return the records of all ranks from those of one group: every group is like the first.

    Only the gradients of data-parallel tables are summed over all ranks.
    """
    part = cluster.part(groups.shard_group_size)
    if part == cluster:
        return tuple(memory)
    records = []
    for rank in memory:
        inside = all_reduce_traffic(rank.gradients, part.local_world_size, part.nodes)
        over_all = all_reduce_traffic(rank.gradients, cluster.local_world_size, cluster.nodes)
        traffic = rank.step.traffic.plus(over_all).plus(inside.times(-1))
        records.append(replace(rank, step=replace(rank.step, traffic=traffic)))
    return tuple(replace(records[rank % len(records)], rank=rank) for rank in range(cluster.world_size))


def plan_warnings(planned: Sequence[TablePlan], optimizer: str) -> tuple[str, ...]:
    """Return what a user of the plan should know before training with it."""
    split = [
        table.name
        for table in planned
        if table.sharding_type in COLUMN_SPLITS
        and any(shard.columns < table.embedding_dim for shard in table.shards)
    ]
    warnings = _ssd_warnings(planned)
    if not split or optimizer not in ROW_MOMENT_OPTIMIZERS:
        return warnings
    return (
        *warnings,
        f"{optimizer} keeps one moment for each row of a shard, so with split columns "
        f"({', '.join(split)}) losses differ slightly from the unsharded model's, and a checkpoint goes "
        "on under other column widths with means of its moments; adagrad and sgd have neither limit",
    )


def _ssd_warnings(planned: Sequence[TablePlan]) -> tuple[str, ...]:
    on_ssd = [table.name for table in planned if table.compute_kernel == KEY_VALUE]
    if not on_ssd:
        return ()
    return (
        f"tables on SSD ({', '.join(on_ssd[:5])}) can be planned, but not trained: the published builds of "
        "FBGEMM have no kernels for them; their time takes every row from the SSD at a guessed rate, "
        "whatever the cache holds",
    )
