"""From the options that TorchRec's planner chose to the records of our plan."""

from __future__ import annotations

from collections.abc import Sequence

from torchrec.distributed.planner.types import ShardingOption

from sharding.candidates import ROW_MOMENT_OPTIMIZERS
from sharding.memory import MemoryBudget, gradient_bytes, optimizer_bytes, weight_bytes
from sharding.sharders import COLUMN_SPLITS
from sharding.table_plan import RankMemory, Shard, TablePlan
from sharding.tables import TableSpec
from sharding.topology import Cluster


def table_plans(
    options: Sequence[ShardingOption], tables: Sequence[TableSpec], optimizer: str
) -> tuple[TablePlan, ...]:
    """Return one record for each table, in the order of the table list."""
    chosen = {option.name: option for option in options}
    return tuple(_table_plan(chosen[table.name], table, optimizer) for table in tables)


def _table_plan(option: ShardingOption, table: TableSpec, optimizer: str) -> TablePlan:
    shards = tuple(Shard(shard.rank, *shard.offset, *shard.size) for shard in option.shards)
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
        shards=shards,
        weight_bytes=sum(weight_bytes(table, s.rows, s.columns) for s in shards),
        optimizer_bytes=sum(optimizer_bytes(optimizer, s.rows, s.columns) for s in shards),
        relative_ms=round(max(shard.perf.total for shard in option.shards), 6),
    )


def rank_memory(
    options: Sequence[ShardingOption],
    tables: Sequence[TableSpec],
    cluster: Cluster,
    budget: MemoryBudget,
    optimizer: str,
) -> tuple[RankMemory, ...]:
    """Return the bytes on each rank, by what they are for."""
    specs = {table.name: table for table in tables}
    sums = [
        dict.fromkeys(("weights", "optimizer", "gradients", "tables", "host"), 0)
        for _ in range(cluster.world_size)
    ]
    times = [0.0] * cluster.world_size
    for option in options:
        table, in_host = specs[option.name], "uvm" in option.compute_kernel
        for shard in option.shards:
            on_rank, size = sums[shard.rank], shard.size
            storage = shard.storage
            times[shard.rank] += shard.perf.total
            on_rank["tables"] += storage.hbm if cluster.device == "cuda" else storage.ddr
            on_rank["host"] += storage.ddr if cluster.device == "cuda" else 0
            if not in_host:
                on_rank["weights"] += weight_bytes(table, *size)
                on_rank["optimizer"] += optimizer_bytes(optimizer, *size)
                on_rank["gradients"] += gradient_bytes(table, option.sharding_type, *size)
    return tuple(_rank(rank, on_rank, times[rank], budget.dense_bytes) for rank, on_rank in enumerate(sums))


def _rank(rank: int, sums: dict[str, int], milliseconds: float, dense: int) -> RankMemory:
    return RankMemory(
        rank=rank,
        weights=sums["weights"],
        optimizer=sums["optimizer"],
        gradients=sums["gradients"],
        buffers=max(0, sums["tables"] - sums["weights"] - sums["optimizer"] - sums["gradients"]),
        dense=dense,
        memory_used=sums["tables"] + dense,
        host_used=sums["host"],
        relative_ms=round(milliseconds, 6),
    )


def plan_warnings(planned: Sequence[TablePlan], optimizer: str) -> tuple[str, ...]:
    """Return what a user of the plan should know before training with it."""
    split = [
        table.name
        for table in planned
        if table.sharding_type in COLUMN_SPLITS
        and any(shard.columns < table.embedding_dim for shard in table.shards)
    ]
    if not split or optimizer not in ROW_MOMENT_OPTIMIZERS:
        return ()
    return (
        f"{optimizer} keeps one moment for each row of a shard, so with split columns "
        f"({', '.join(split)}) losses differ slightly from the unsharded model's, and the optimizer state "
        "of a checkpoint loads only into the same column widths; adagrad and sgd have neither limit",
    )
