"""What the planner may choose from for each table.

TorchRec keeps a record of every shard of every option, so that time and memory of planning grow with the
options that have a shard on every rank. Few tables on few ranks get all options that can make a difference;
otherwise these options go to the tables that gain most from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import BoundsCheckMode, CacheParams
from torchrec.modules.embedding_configs import DataType

from sharding.constraints import ON_EVERY_RANK, keeps_to_ranks, ranks_of_a_host, whole_hosts
from sharding.errors import PlanError
from sharding.memory import MemoryBudget, total_bytes
from sharding.sharders import COLUMN_SPLITS, HOST_TYPES, kernels_of, sharding_types_of
from sharding.tables import TableSpec
from sharding.topology import Cluster

Effort = Literal["few", "all"]
"""Sharding types looked at for each table: without those that seldom pay, or all."""
# Up to this many shards of options that have one on every rank are a matter of a second.
_ALL_SHARDS = 200_000
# Up to this many of one sharding type are a matter of seconds and half a GiB.
_MOST_SHARDS = 1_000_000
# A larger share of a rank's memory is not worth spending on a copy of a table on every rank.
_DATA_PARALLEL_SHARE = 1 / 8
# TorchRec's least width of a column shard; narrower tables would be one shard, like table_wise.
_COLUMN_WIDTH = 128
# Their moments are means over a row: over part of a row where columns are split.
ROW_MOMENT_OPTIMIZERS = frozenset({"rowwise_adagrad", "partial_rowwise_adam", "lamb"})


def search_effort(tables: Sequence[TableSpec], cluster: Cluster) -> Effort:
    """Return how much of the space the planner can look at within seconds."""
    shards = len(ON_EVERY_RANK) * len(tables) * cluster.world_size
    return "all" if shards <= _ALL_SHARDS else "few"


def planner_constraints(
    tables: Sequence[TableSpec],
    cluster: Cluster,
    budget: MemoryBudget,
    optimizer: str,
    effort: Effort,
    output_type: DataType | None = None,
) -> dict[str, ParameterConstraints]:
    """Return the planner's constraints by table name; `output_type` is what kernels look up but fp32."""
    types = {table.name: candidate_types(table, cluster, budget, optimizer, effort) for table in tables}
    small_first = sorted(tables, key=lambda table: (total_bytes(table, optimizer), table.name))
    _trim("data_parallel", [table.name for table in small_first], types, cluster)
    _trim("row_wise", [table.name for table in reversed(small_first)], types, cluster)
    return {table.name: _constraints(table, cluster, types[table.name], output_type) for table in tables}


def _trim(kind: str, names: Sequence[str], types: dict[str, tuple[str, ...]], cluster: Cluster) -> None:
    """Take a type with a shard on every rank from the last of the tables that have others to choose from."""
    free = [name for name in names if kind in types[name] and not ON_EVERY_RANK.issuperset(types[name])]
    for name in free[_MOST_SHARDS // cluster.world_size :]:
        types[name] = tuple(other for other in types[name] if other != kind)


def candidate_types(
    table: TableSpec, cluster: Cluster, budget: MemoryBudget, optimizer: str, effort: Effort
) -> tuple[str, ...]:
    """Return the sharding types that the planner chooses from.

    Args:
        table: with its own constraint, which wins where it is given.
        cluster: of the plan.
        budget: memory left on a rank.
        optimizer: embedding optimizer.
        effort: how many types to look at.
    """
    possible = [
        kind
        for kind in sharding_types_of(table, optimizer, cluster.device)
        if _has_kernel(kind, table, cluster)
        and keeps_to_ranks(kind, table, cluster)
        and fills_every_rank(kind, table.num_embeddings, cluster)
    ]
    if table.sharding_types is not None:
        return tuple(kind for kind in possible if kind in table.sharding_types)
    if cluster.world_size == 1 and "table_wise" in possible:
        return ("table_wise",)
    # What helps nobody is still taken where the kernels leave nothing else.
    useful = [kind for kind in possible if _is_useful(kind, table, cluster, budget, optimizer)] or possible
    node = budget.left_bytes * cluster.local_world_size
    if effort == "few" and total_bytes(table, optimizer) <= node // 2:
        useful = [kind for kind in useful if kind != "row_wise"] or useful
    return tuple(useful)


def fills_every_rank(kind: str, rows: int, cluster: Cluster) -> bool:
    """Return whether a sharding type gives every rank that shares the table's rows one of them at least.

    FBGEMM takes tables without any element for tables of a GPU, so on CPU a rank whose tables are all empty
    fails at its first lookup.

    Args:
        kind: sharding type.
        rows: `num_embeddings`.
        cluster: of the plan.
    """
    if cluster.device == "cuda":
        return True
    parts = {
        "row_wise": cluster.world_size,
        "table_row_wise": cluster.local_world_size,
        "grid_shard": cluster.local_world_size,
    }.get(kind, 1)
    # TorchRec fills one rank after the other with ceil(rows / parts).
    return (parts - 1) * -(-rows // parts) < rows


def check_candidates(
    tables: Sequence[TableSpec], cluster: Cluster, budget: MemoryBudget, optimizer: str
) -> None:
    """Refuse constraints that leave a table no sharding type on this cluster.

    Raises:
        PlanError: names the table and what would do.
    """
    for table in tables:
        if candidate_types(table, cluster, budget, optimizer, "all"):
            continue
        ranks = f"{table.num_embeddings} rows on {cluster.world_size} ranks"
        free = replace(table, sharding_types=None)
        allowed = candidate_types(free, cluster, budget, optimizer, "all")
        raise PlanError(
            "the allowed sharding types leave ranks without a row of the table; CPU kernels refuse that",
            where=f"tables.{table.name}.sharding_types",
            got=f"{', '.join(table.sharding_types or ())} ({ranks})",
            allowed=allowed,
            fixes=[f"--set tables.{table.name}.sharding_types=[{kind}]" for kind in allowed[:1]]
            + ["use fewer ranks"],
        )


def _has_kernel(kind: str, table: TableSpec, cluster: Cluster) -> bool:
    kernels = table.compute_kernels
    return kernels is None or any(kernel in kernels for kernel in kernels_of([kind], cluster.device))


def _is_useful(kind: str, table: TableSpec, cluster: Cluster, budget: MemoryBudget, optimizer: str) -> bool:
    if kind == "grid_shard":
        return False  # Only by name, as in TorchRec.
    if kind == "data_parallel":
        size = total_bytes(table, optimizer)
        # gloo's all-reduce of a dense gradient costs more than looking rows up, so on CPU only by name.
        return cluster.device == "cuda" and size <= budget.left_bytes * _DATA_PARALLEL_SHARE
    if kind in HOST_TYPES and cluster.nodes == 1:
        return False
    if kind in COLUMN_SPLITS:
        changes_moments = optimizer in ROW_MOMENT_OPTIMIZERS
        return table.embedding_dim > (table.min_partition or _COLUMN_WIDTH) and not changes_moments
    return True


def _constraints(
    table: TableSpec, cluster: Cluster, types: Sequence[str], output_type: DataType | None
) -> ParameterConstraints:
    # UVM kernels are slower by far: only where the config names them.
    kernels = table.compute_kernels or ("fused", "dense")
    offered = kernels_of(types, cluster.device)
    return ParameterConstraints(
        sharding_types=list(types),
        compute_kernels=[kernel for kernel in offered if kernel in kernels],
        min_partition=_column_width(table, cluster, types),
        pooling_factors=list(table.pooling_factors or [1.0] * len(table.features)),
        cache_params=None
        if table.cache_load_factor is None
        else CacheParams(load_factor=table.cache_load_factor),
        feature_names=list(table.features),
        # Kernels look up fp32 unless told otherwise; TorchRec would count vectors as narrow as the weights.
        output_dtype=output_type or DataType.FP32,
        enforce_hbm=table.enforce_hbm,
        stochastic_rounding=table.stochastic_rounding,
        bounds_check_mode=None
        if table.bounds_check_mode is None
        else BoundsCheckMode[table.bounds_check_mode.upper()],
    )


def _column_width(table: TableSpec, cluster: Cluster, types: Sequence[str]) -> int | None:
    """Return the width of a column shard: as asked for, else so that every allowed rank gets one."""
    if table.min_partition is not None:
        return table.min_partition
    if table.sharding_types is None or not COLUMN_SPLITS & set(types):
        return None
    if "column_wise" in types:
        parts = cluster.world_size if table.ranks is None else len(table.ranks)
    elif "table_column_wise" in types:
        parts = ranks_of_a_host(table, cluster)
    else:
        parts = len(whole_hosts(table, cluster))
    dim = table.embedding_dim
    widths = [width for width in range(4, dim + 1, 4) if dim % width == 0 and width * parts >= dim]
    return min(widths, default=dim)
