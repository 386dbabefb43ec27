"""From the options that TorchRec's planner chose to the records of our plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from torchrec.distributed.planner.types import Perf, ShardingOption
from torchrec.distributed.planner.types import Shard as TorchrecShard

from sharding.candidates import ROW_MOMENT_OPTIMIZERS
from sharding.memory import MemoryBudget, gradient_bytes, optimizer_bytes, weight_bytes
from sharding.rank_plan import RankMemory, RankStep
from sharding.sharders import COLUMN_SPLITS
from sharding.table_plan import Shard, TablePlan
from sharding.tables import TableSpec
from sharding.topology import Cluster
from sharding.traffic import ShardUse, Traffic, TrafficCount

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
)


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
    """Return what each rank holds and does, by what it is for."""
    specs = {table.name: table for table in tables}
    sums = [_RankSums() for _ in range(cluster.world_size)]
    traffic = TrafficCount(cluster, options[0].batch_size if options else 0)
    for option in options:
        sizes: dict[tuple[int, ...], Counter[str]] = {}  # a table may have a shard of one size on every rank
        for shard in option.shards:
            size = sizes.get(tuple(shard.size))
            if size is None:
                size = _bytes_of(option, shard, specs[option.name], cluster, optimizer)
                sizes[tuple(shard.size)] = size
            sums[int(shard.rank or 0)].add(size, shard.perf)
            if shard.size[0]:
                traffic.add(_use(option, shard, size))
    return tuple(
        _rank(rank, of_rank, sent, budget)
        for rank, (of_rank, sent) in enumerate(zip(sums, traffic.by_rank(), strict=True))
    )


def _use(option: ShardingOption, shard: TorchrecShard, size: Counter[str]) -> ShardUse:
    return ShardUse(
        kind=option.sharding_type,
        rank=int(shard.rank or 0),
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
    on_gpu, in_host = cluster.device == "cuda", "uvm" in option.compute_kernel
    used = shard.storage.hbm if on_gpu else shard.storage.ddr
    where = "host_" if in_host else ""
    size = Counter(
        {
            f"{where}weights": weight_bytes(table, rows, columns),
            f"{where}optimizer": optimizer_bytes(optimizer, rows, columns),
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
    if in_host:
        batches = 1 if not use.pooled and use.kind == "row_wise" else cluster.world_size
        output = min(rest, round(use.vector_bytes(option.batch_size) * batches))
        size["cache"] = max(0, rest - output)
    size["output_buffers"] = max(0, output)
    size["used"] = used
    return size


@dataclass
class _RankSums:
    """Sums over the shards of one rank."""

    size: Counter[str] = field(default_factory=Counter)
    compute_ms: float = 0.0
    exchange_ms: float = 0.0
    input_ms: float = 0.0

    def add(self, size: Counter[str], perf: Perf) -> None:
        self.size.update(size)
        self.compute_ms += perf.fwd_compute + perf.bwd_compute + perf.prefetch_compute
        self.exchange_ms += perf.fwd_comms + perf.bwd_comms
        self.input_ms += perf.input_dist_comms


def _rank(rank: int, sums: _RankSums, traffic: Traffic, budget: MemoryBudget) -> RankMemory:
    size, dense = sums.size, budget.dense
    return RankMemory(
        rank=rank,
        **{name: size[name] for name in _TABLE_PARTS},
        dense_weights=dense.weights + dense.gathered,
        dense_gradients=dense.gradients,
        dense_optimizer=dense.optimizer,
        activations=dense.activations,
        reserve=int(budget.capacity_bytes * budget.reserve_share),
        memory_used=size["used"] + dense.total + dense.activations,
        step=RankStep(
            round(sums.compute_ms, 6), round(sums.exchange_ms, 6), round(sums.input_ms, 6), traffic
        ),
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
