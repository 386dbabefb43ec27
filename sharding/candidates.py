"""What the planner may choose from for each table.

The time that TorchRec's planner takes grows with options x shards. Few tables on few ranks get all options
that can make a difference; otherwise each table gets the one or two that suit its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.distributed.types import CacheParams

from sharding.errors import PlanError
from sharding.memory import MemoryBudget, total_bytes
from sharding.sharders import COLUMN_SPLITS, HOST_TYPES, kernels_of, sharding_types_of
from sharding.tables import TableSpec
from sharding.topology import Cluster

Effort = Literal["one", "some", "all"]
"""Sharding types looked at for each table: the one for its size, those of cheap shards, or all."""
# Up to this many (table, rank) pairs all options take about a second.
_ALL_OPTIONS = 1024
# Up to this many (table, local rank) pairs the options with few shards take seconds.
_SOME_OPTIONS = 2048
# An all-reduce of the table's dense gradient is worth it only for tiny tables.
_DATA_PARALLEL_LIMIT_BYTES = 16 * 1024**2
# TorchRec's least width of a column shard; narrower tables would be one shard, like table_wise.
_COLUMN_WIDTH = 128
# Their moments are means over a row: over part of a row where columns are split.
ROW_MOMENT_OPTIMIZERS = frozenset({"rowwise_adagrad", "partial_rowwise_adam", "lamb"})


def search_effort(tables: Sequence[TableSpec], cluster: Cluster) -> Effort:
    """Return how much of the space the planner can look at within seconds."""
    if len(tables) * cluster.world_size <= _ALL_OPTIONS:
        return "all"
    return "some" if len(tables) * cluster.local_world_size <= _SOME_OPTIONS else "one"


def planner_constraints(
    tables: Sequence[TableSpec], cluster: Cluster, budget: MemoryBudget, optimizer: str, effort: Effort
) -> dict[str, ParameterConstraints]:
    """Return the planner's constraints by table name."""
    return {table.name: _constraints(table, cluster, budget, optimizer, effort) for table in tables}


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
        for kind in sharding_types_of(table, cluster.device, optimizer)
        if _has_kernel(kind, table, cluster) and fills_every_rank(kind, table.num_embeddings, cluster)
    ]
    if table.sharding_types is not None:
        return tuple(kind for kind in possible if kind in table.sharding_types)
    if cluster.world_size == 1 and "table_wise" in possible:
        return ("table_wise",)
    # What helps nobody is still taken where the kernels leave nothing else.
    useful = [kind for kind in possible if _is_useful(kind, table, cluster, optimizer)] or possible
    if effort == "all":
        return tuple(useful)
    size = total_bytes(table, optimizer)
    choose = _one_type if effort == "one" else _some_types
    return tuple(kind for kind in choose(useful, size, cluster, budget) if kind in useful) or tuple(useful)


def fills_every_rank(kind: str, rows: int, cluster: Cluster) -> bool:
    """Return whether a sharding type gives every rank that shares the table's rows one of them at least.

    FBGEMM takes tables without any element for tables of a GPU, so on CPU a rank whose tables are all empty
    fails at its first lookup.

    Args:
        kind: sharding type.
        rows: `num_embeddings`.
        cluster: of the plan.
    """
    parts = {
        "row_wise": cluster.world_size,
        "table_row_wise": cluster.local_world_size,
        "grid_shard": cluster.local_world_size,
    }.get(kind, 1)
    # TorchRec fills one rank after the other with ceil(rows / parts).
    return cluster.device == "cuda" or (parts - 1) * -(-rows // parts) < rows


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


def _is_useful(kind: str, table: TableSpec, cluster: Cluster, optimizer: str) -> bool:
    if kind == "grid_shard":
        return False  # Only by name, as in TorchRec.
    if kind == "data_parallel":
        size = total_bytes(table, optimizer)
        # gloo's all-reduce of a dense gradient costs more than looking rows up, so on CPU only by name.
        return cluster.device == "cuda" and size <= _DATA_PARALLEL_LIMIT_BYTES
    if kind in HOST_TYPES and cluster.nodes == 1:
        return False
    if kind in COLUMN_SPLITS:
        changes_moments = optimizer in ROW_MOMENT_OPTIMIZERS
        return table.embedding_dim > (table.min_partition or _COLUMN_WIDTH) and not changes_moments
    return True


def _some_types(useful: Sequence[str], size: int, cluster: Cluster, budget: MemoryBudget) -> list[str]:
    """Leave out types with a shard on every rank, except where the table is too large for one node."""
    node = budget.left_bytes * cluster.local_world_size
    small = [kind for kind in useful if kind not in ("row_wise", "data_parallel")]
    return small if size <= node // 2 and small else list(useful)


def _one_type(useful: Sequence[str], size: int, cluster: Cluster, budget: MemoryBudget) -> list[str]:
    node = budget.left_bytes * cluster.local_world_size
    if size <= budget.left_bytes // 20:
        return ["table_wise"]
    inside = "table_row_wise" if "table_row_wise" in useful else "row_wise"
    return [inside] if size <= node // 2 else ["row_wise"]


def _constraints(
    table: TableSpec, cluster: Cluster, budget: MemoryBudget, optimizer: str, effort: Effort
) -> ParameterConstraints:
    types = candidate_types(table, cluster, budget, optimizer, effort)
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
    )


def _column_width(table: TableSpec, cluster: Cluster, types: Sequence[str]) -> int | None:
    """Return the width of a column shard: as asked for, else so that every rank gets one."""
    if table.min_partition is not None:
        return table.min_partition
    if table.sharding_types is None or not COLUMN_SPLITS & set(types):
        return None
    if "column_wise" in types:
        parts = cluster.world_size
    else:
        parts = cluster.local_world_size if "table_column_wise" in types else cluster.nodes
    dim = table.embedding_dim
    widths = [width for width in range(4, dim + 1, 4) if dim % width == 0 and width * parts >= dim]
    return min(widths, default=dim)
