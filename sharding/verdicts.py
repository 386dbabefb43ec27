"""The verdicts without a plan, each an error that says what would help and by how much.

`cannot_fit` is proved by our own count of bytes. `no_plan_found` is weaker: the bytes fit, but the search
ended without a plan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from sharding.candidates import candidate_types
from sharding.errors import PlanError
from sharding.memory import MemoryBudget, least_bytes, smallest_shard_bytes, total_bytes
from sharding.tables import TableSpec
from sharding.topology import Cluster
from sharding.units import GIB, byte_size


class NoPlanError(PlanError):
    """There is no plan; `verdict` says how sure that is."""

    verdict: ClassVar[str] = "no_plan_found"

    def as_json(self) -> dict[str, Any]:
        """Return the `--json` form, with the verdict."""
        return {"verdict": self.verdict, **super().as_json()}


class NoPlanFoundError(NoPlanError):
    """The bytes fit, but the planner found no placement."""


class CannotFitError(NoPlanError):
    """The tables need more bytes than there are."""

    verdict: ClassVar[str] = "cannot_fit"


def check_bytes(tables: Sequence[TableSpec], cluster: Cluster, budget: MemoryBudget, optimizer: str) -> None:
    """Refuse tables that no plan can hold.

    Raises:
        CannotFitError: all tables together, or the smallest shard of one, exceed what is left.
    """
    need, left = least_bytes(tables, optimizer), budget.left_bytes * cluster.world_size
    if need > left:
        raise CannotFitError(
            f"{_heading(tables, cluster)} "
            f"(need {byte_size(need)}, {byte_size(left)} left after {_taken(budget)})"
            f"\n  largest: {_largest(tables, optimizer)}",
            where=f"cluster {cluster}",
            fixes=_fixes(tables, cluster, budget, optimizer),
        )
    for table in tables:
        types = candidate_types(table, cluster, budget, optimizer, "all")
        shard = smallest_shard_bytes(table, types, cluster, optimizer)
        if shard > budget.left_bytes:
            raise CannotFitError(
                f"a shard of table {table.name} does not fit one rank (needs {byte_size(shard)}, "
                f"{byte_size(budget.left_bytes)} left after {_taken(budget)})",
                where=f"tables.{table.name}.sharding_types",
                got=", ".join(types),
                allowed="types that split the table further: row_wise, table_row_wise",
                fixes=_fixes([table], cluster, budget, optimizer),
            )


def no_plan_found(
    tables: Sequence[TableSpec],
    cluster: Cluster,
    budget: MemoryBudget,
    optimizer: str,
    *,
    batch_size_per_rank: int,
) -> NoPlanFoundError:
    """Return the error for a search that ended without a plan."""
    need, left = least_bytes(tables, optimizer), budget.left_bytes * cluster.world_size
    fixes = []
    constrained = [table.name for table in tables if table.sharding_types is not None]
    if constrained:
        fixes.append(f"allow more tables.*.sharding_types (constrained: {_some(constrained)})")
    half = max(1, batch_size_per_rank // 2)
    fixes.append(f"batch_size_per_rank {half}: buffers for ids and embeddings shrink by half")
    share = budget.reserve_share
    if share >= 0.1:
        fixes.append(
            f"plan.storage_reserve_share: {share / 2:.3g} (leaves {byte_size(_freed(budget))} more a rank)"
        )
    fixes += _fixes(tables, cluster, budget, optimizer)
    return NoPlanFoundError(
        f"no plan found for {len(tables)} tables on {cluster.world_size} ranks, although their bytes fit "
        f"(need {byte_size(need)} without buffers, {byte_size(left)} left after {_taken(budget)})"
        f"\n  largest: {_largest(tables, optimizer)}",
        where=f"cluster {cluster}",
        fixes=fixes,
    )


def _heading(tables: Sequence[TableSpec], cluster: Cluster) -> str:
    memory = cluster.rank_hardware.memory_gib
    return f"{len(tables)} tables do not fit {cluster.world_size} ranks x {memory:g} GiB"


def _taken(budget: MemoryBudget) -> str:
    dense = (
        f" and {byte_size(budget.dense_bytes)} a rank of dense layers and activations"
        if budget.dense_bytes >= GIB // 100
        else ""
    )
    return f"the {budget.reserve_share:.0%} reserve{dense}"


def _freed(budget: MemoryBudget) -> float:
    return budget.capacity_bytes * budget.reserve_share / 2


def _largest(tables: Sequence[TableSpec], optimizer: str) -> str:
    top = sorted(tables, key=lambda table: -total_bytes(table, optimizer))[:3]
    return "; ".join(
        f"{t.name} {t.num_embeddings:.3g} x {t.embedding_dim} {t.data_type} = "
        f"{byte_size(total_bytes(t, optimizer))} with {optimizer}"
        for t in top
    )


def _fixes(tables: Sequence[TableSpec], cluster: Cluster, budget: MemoryBudget, optimizer: str) -> list[str]:
    """Return fixes with what each saves, most effective first where they compare."""
    need = least_bytes(tables, optimizer)
    nodes = max(cluster.nodes + 1, math.ceil(need / (budget.left_bytes * cluster.local_world_size)))
    ranks = nodes * cluster.local_world_size
    fixes = [
        f"--cluster {cluster.with_nodes(nodes)} ({ranks} ranks, {byte_size(ranks * budget.left_bytes)} left)"
    ]
    biggest = max(tables, key=lambda table: total_bytes(table, optimizer))
    size = total_bytes(biggest, optimizer)
    if biggest.embedding_dim >= 8:
        dim = biggest.embedding_dim // 2
        fixes.append(f"tables.{biggest.name}.embedding_dim: {dim} (saves about {byte_size(size / 2)})")
    if cluster.device == "cuda":
        fixes.append(
            f"tables.{biggest.name}.compute_kernels: [fused_uvm_caching] "
            f"(needs {byte_size(size)} of host memory)"
        )
    wide = sum(table.weight_bytes for table in tables if table.data_type == "fp32")
    if wide:
        fixes.append(f"tables.*.data_type: fp16 (saves {byte_size(wide / 2)})")
    lean = sum(total_bytes(t, optimizer) - total_bytes(t, "rowwise_adagrad") for t in tables)
    if lean > 0:
        fixes.append(f"train.embedding_optimizer.name: rowwise_adagrad (saves {byte_size(lean)})")
    return fixes


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
