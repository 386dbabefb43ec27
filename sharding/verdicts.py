"""The verdicts without a plan, each an error that says what would help and by how much.

`cannot_fit` is proved by our own count of bytes. `no_plan_found` is weaker: the bytes fit, but the search
ended without a plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any, ClassVar

from sharding.candidates import candidate_types
from sharding.dense_part import DensePart
from sharding.errors import PlanError
from sharding.memory import (
    MemoryBudget,
    Tier,
    least_bytes,
    least_bytes_within,
    optimizer_bytes,
    row_state_bytes,
    smallest_shard_bytes,
    tiers,
    total_bytes,
)
from sharding.ssd import can_use_ssd
from sharding.table_plan import rank_range
from sharding.tables import TableSpec
from sharding.topology import Cluster
from sharding.units import GIB, byte_size

_TIERS: dict[Tier, str] = {"hbm": "HBM", "host": "host memory", "ssd": "SSD"}
# HBM alone has a message of its own.
_COMBINED: list[frozenset[Tier]] = [
    frozenset(kinds) for size in (1, 2, 3) for kinds in combinations(_TIERS, size) if kinds != ("hbm",)
]
# Where no weights are in HBM, state of the optimizer alone is.
_STATELESS = "train.embedding_optimizer.name: sgd (keeps no state, all that these tables have in HBM)"
# Numbers of nodes beyond the least one, as a multiple of it and in all, among which training may take one.
_FURTHER, _TRIED = 8, 1000
# Larger clusters than anybody has for one run are no advice.
_MOST_RANKS = 32_768


def any_ranks(_: int) -> bool:
    """Take any number of ranks."""
    return True


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


def check_dense(budget: MemoryBudget, cluster: Cluster) -> None:
    """Refuse a dense part that, with the slots of ids, leaves a rank nothing for tables.

    Raises:
        CannotFitError: it does.
    """
    if budget.left_bytes > 0:
        return
    dense, slots = budget.dense, budget.id_slots
    ids = " and the slots of ids that come and go" if slots else " alone"
    raise CannotFitError(
        f"the dense layers{ids} do not fit one rank",
        where=f"cluster {cluster}",
        got=f"{byte_size(dense.total)} (weights, gradients, optimizer, gathered layers), "
        f"{byte_size(dense.activations)} of activations"
        + (f", {byte_size(slots)} of slots" if slots else ""),
        allowed=byte_size(budget.capacity_bytes * (1 - budget.reserve_share)),
        fixes=_dense_fixes(dense),
    )


def _dense_fixes(dense: DensePart) -> list[str]:
    fixes = ["make the dense layers smaller", "choose ranks with more memory"]
    if dense.activations > dense.total:
        return ["a smaller batch size per rank", *fixes]
    if dense.parallel == "ddp":
        fixes.append("train.dense_parallel: fsdp (each rank holds a part)")
    return fixes


def check_bytes(
    tables: Sequence[TableSpec],
    cluster: Cluster,
    budget: MemoryBudget,
    optimizer: str,
    takes: Callable[[int], bool] = any_ranks,
) -> None:
    """Refuse tables that no plan can hold.

    Args:
        tables: with their constraints.
        cluster: the ranks.
        budget: memory of a rank.
        optimizer: of the tables.
        takes: whether training takes a number of ranks, for larger clusters that the message suggests.

    Raises:
        CannotFitError: all tables together, or the smallest shard of one, exceed what is left.
    """
    need, left = least_bytes(tables, optimizer), budget.left_bytes * cluster.world_size
    if need > left:
        held = [table for table in tables if tiers(table) == {"hbm"}] or tables
        leaner = _leaner(held, cluster, budget, optimizer)
        if all("host" in tiers(table) for table in tables):
            leaner = [_STATELESS]
        nodes = _nodes(need, budget.left_bytes, cluster)
        more = _more_nodes(cluster, nodes, budget.left_bytes, takes)
        least = partial(least_bytes, optimizer=optimizer)
        raise CannotFitError(
            f"{_heading(tables, cluster)} "
            f"(need {byte_size(need)}, {byte_size(left)} left after {_taken(budget)})"
            f"\n  largest: {_largest(held, optimizer, left)}",
            where=f"cluster {cluster}",
            fixes=[*(more or _fewer_rows(tables, cluster, left, least)), *leaner],
        )
    _check_other_memory(tables, cluster, budget, optimizer, takes)
    for table in tables:
        _check_own_ranks(table, cluster, budget, optimizer)
        types = candidate_types(table, cluster, budget, optimizer, "all")
        shard = smallest_shard_bytes(table, types, cluster, optimizer)
        if shard > budget.left_bytes:
            raise _shard_too_large(table, types, shard, cluster, budget, optimizer)


def _shard_too_large(
    table: TableSpec,
    types: Sequence[str],
    shard: int,
    cluster: Cluster,
    budget: MemoryBudget,
    optimizer: str,
) -> CannotFitError:
    """Return the error for a table whose types do not split it far enough: more nodes would not help."""
    free = candidate_types(replace(table, sharding_types=None), cluster, budget, optimizer, "all")
    sizes = {kind: smallest_shard_bytes(table, [kind], cluster, optimizer) for kind in free}
    finer = [kind for kind, size in sizes.items() if size <= budget.left_bytes]
    where = f"tables.{table.name}.sharding_types"
    largest = max((sizes[kind] for kind in finer), default=0)
    fixes = _leaner([table], cluster, budget, optimizer)
    if finer:
        fixes = [f"{where}: [{', '.join(finer)}] (shards of {byte_size(largest)} or less)"]
        fixes += _out_of_hbm(table, cluster, budget, optimizer)
    return CannotFitError(
        f"a shard of table {table.name} does not fit one rank (needs {byte_size(shard)}, "
        f"{byte_size(budget.left_bytes)} left after {_taken(budget)})",
        where=where,
        got=", ".join(types),
        allowed=finer or "types that split the table further: row_wise, table_row_wise",
        fixes=fixes,
    )


def _check_other_memory(
    tables: Sequence[TableSpec],
    cluster: Cluster,
    budget: MemoryBudget,
    optimizer: str,
    takes: Callable[[int], bool],
) -> None:
    """Refuse tables that the kinds of memory their kernels name cannot hold together."""
    rank_has: dict[Tier, int] = {
        "hbm": budget.left_bytes,
        "host": budget.host_left_bytes,
        "ssd": budget.ssd_left_bytes,
    }
    for within in _COMBINED:
        need = least_bytes_within(tables, optimizer, within)
        a_rank = sum(rank_has[tier] for tier in within)
        if need <= a_rank * cluster.world_size:
            continue
        held, left = [t for t in tables if tiers(t) <= within], a_rank * cluster.world_size
        more = _more_nodes(cluster, _nodes(need, a_rank, cluster), a_rank, takes)
        least = partial(least_bytes_within, optimizer=optimizer, within=within)
        raise CannotFitError(
            f"{_do(held)} not fit the {' and '.join(_TIERS[tier] for tier in _TIERS if tier in within)} of "
            f"{cluster.world_size} ranks (need {byte_size(need)}, {byte_size(left)} left "
            f"after {_reserve(budget)})"
            f"\n  largest: {_largest(held, optimizer, left)}",
            where=f"cluster {cluster}",
            fixes=[
                *(more or _fewer_rows(held, cluster, left, least)),
                *_leaner(held, cluster, budget, optimizer),
            ],
        )


def _check_own_ranks(table: TableSpec, cluster: Cluster, budget: MemoryBudget, optimizer: str) -> None:
    if table.ranks is None:
        return
    need, left = least_bytes([table], optimizer), budget.left_bytes * len(table.ranks)
    if need > left:
        raise CannotFitError(
            f"table {table.name} does not fit ranks {rank_range(table.ranks)} (needs {byte_size(need)}, "
            f"{byte_size(left)} left after {_taken(budget)})",
            where=f"tables.{table.name}.ranks",
            got=rank_range(table.ranks),
            allowed=f"{math.ceil(need / budget.left_bytes)} ranks or more",
            fixes=["name more ranks, or leave `ranks` out", *_leaner([table], cluster, budget, optimizer)],
        )


def no_plan_found(
    tables: Sequence[TableSpec],
    cluster: Cluster,
    budget: MemoryBudget,
    optimizer: str,
    *,
    batch_size_per_rank: int,
    takes: Callable[[int], bool] = any_ranks,
) -> NoPlanFoundError:
    """Return the error for a search that ended without a plan; the arguments are those of `check_bytes`."""
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
    fixes += _fixes(tables, cluster, budget, optimizer, takes)
    return NoPlanFoundError(
        f"no plan found for {len(tables)} tables on {cluster.world_size} ranks, although their bytes fit "
        f"(need {byte_size(need)} without buffers, {byte_size(left)} left after {_taken(budget)})"
        f"\n  largest: {_largest(tables, optimizer, left)}",
        where=f"cluster {cluster}",
        fixes=fixes,
    )


def _heading(tables: Sequence[TableSpec], cluster: Cluster) -> str:
    memory, ranks = cluster.rank_hardware.memory_gib, cluster.world_size
    return f"{_do(tables)} not fit {ranks} rank{'s' if ranks > 1 else ''} x {memory:g} GiB"


def _do(tables: Sequence[TableSpec]) -> str:
    return f"{len(tables)} tables do" if len(tables) > 1 else f"table {tables[0].name} does"


def _taken(budget: MemoryBudget) -> str:
    dense = (
        f" and {byte_size(budget.dense_bytes)} a rank of dense layers and activations"
        if budget.dense_bytes >= GIB // 100
        else ""
    )
    return f"{_reserve(budget)}{dense}"


def _reserve(budget: MemoryBudget) -> str:
    return f"the {100 * budget.reserve_share:.4g}% reserve"


def _freed(budget: MemoryBudget) -> float:
    return budget.capacity_bytes * budget.reserve_share / 2


def _largest(tables: Sequence[TableSpec], optimizer: str, left: int) -> str:
    top = sorted(tables, key=lambda table: -total_bytes(table, optimizer))[:3]
    return "; ".join(
        f"{t.name} {t.num_embeddings:,} x {t.embedding_dim} {t.data_type} = "
        f"{byte_size(total_bytes(t, optimizer))} with {optimizer}"
        f"{', too large by itself' if total_bytes(t, optimizer) > left else ''}"
        for t in top
    )


def _nodes(need: int, a_rank: int, cluster: Cluster) -> int:
    """Return the nodes whose ranks have so many bytes, at least one more than there are."""
    return max(cluster.nodes + 1, math.ceil(need / max(1, a_rank * cluster.local_world_size)))


def _more_nodes(cluster: Cluster, nodes: int, left_bytes: int, takes: Callable[[int], bool]) -> list[str]:
    """Return the fix of more nodes, as many as training takes where it takes any; `_MOST_RANKS` at most."""
    local = cluster.local_world_size
    if nodes * local > _MOST_RANKS:
        return []
    tried = range(nodes, min(_FURTHER * nodes, nodes + _TRIED) + 1)
    good = next((n for n in tried if takes(n * local)), None)
    larger = cluster.with_nodes(good or nodes)
    note = "" if good else "; training takes so many ranks with another data.num_lanes or global_batch_size"
    left = byte_size(larger.world_size * left_bytes)
    return [f"--cluster {larger} ({larger.world_size} ranks, {left} left{note})"]


def _fewer_rows(
    tables: Sequence[TableSpec], cluster: Cluster, left: int, least: Callable[[Sequence[TableSpec]], int]
) -> list[str]:
    """Return the fix of fewer rows in the largest table, as many as fit beside the others.

    Args:
        tables: that do not fit.
        cluster: the ranks.
        left: bytes for the tables.
        least: bytes of some of them.
    """
    largest = max(tables, key=lambda table: least([table]))
    room = left - least([table for table in tables if table is not largest])
    rows = max(0, room) * largest.num_embeddings // least([largest])
    if not rows:
        return ["fewer rows in the largest tables: hash their ids into fewer buckets (ops: [hash: N])"]
    digits = 10 ** max(0, len(str(rows)) - 2)
    rows = rows // digits * digits
    return [
        f"fewer rows in table {largest.name}, {rows:,} or less on {cluster}: hash its ids "
        f"(ops: [hash: {rows}]), or declare fewer (plan.tables.*.num_embeddings)"
    ]


def _fixes(
    tables: Sequence[TableSpec],
    cluster: Cluster,
    budget: MemoryBudget,
    optimizer: str,
    takes: Callable[[int], bool] = any_ranks,
) -> list[str]:
    """Return fixes with what each saves, most effective first where they compare."""
    nodes = _nodes(least_bytes(tables, optimizer), budget.left_bytes, cluster)
    more = _more_nodes(cluster, nodes, budget.left_bytes, takes)
    return [*more, *_leaner(tables, cluster, budget, optimizer)]


def _leaner(tables: Sequence[TableSpec], cluster: Cluster, budget: MemoryBudget, optimizer: str) -> list[str]:
    """Return fixes that make tables smaller or bring them elsewhere."""
    fixes = []
    biggest = max(tables, key=lambda table: total_bytes(table, optimizer))
    size = total_bytes(biggest, optimizer)
    if biggest.embedding_dim >= 8:
        dim = biggest.embedding_dim // 2
        fixes.append(f"tables.{biggest.name}.embedding_dim: {dim} (saves about {byte_size(size / 2)})")
    fixes += _out_of_hbm(biggest, cluster, budget, optimizer)
    wide = sum(table.weight_bytes for table in tables if table.data_type == "fp32")
    if wide:
        fixes.append(f"tables.*.data_type: fp16 (saves {byte_size(wide / 2)})")
    lean = sum(total_bytes(t, optimizer) - total_bytes(t, "rowwise_adagrad") for t in tables)
    if lean > 0:
        fixes.append(f"train.embedding_optimizer.name: rowwise_adagrad (saves {byte_size(lean)})")
    return fixes


def _out_of_hbm(table: TableSpec, cluster: Cluster, budget: MemoryBudget, optimizer: str) -> list[str]:
    """Return the fix of host memory where it holds the table, else that of SSD where that does."""
    if cluster.device != "cuda" or tiers(table) != {"hbm"}:
        return []
    ranks, where = cluster.world_size, f"tables.{table.name}"
    size = total_bytes(table, optimizer) - row_state_bytes(optimizer, table.num_embeddings)
    if size <= budget.host_left_bytes * ranks:
        way = "enforce_hbm: false" if table.enforce_hbm else "compute_kernels: [fused_uvm_caching]"
        return [f"{where}.{way} (needs {byte_size(size)} of host memory)"]
    state = optimizer_bytes(optimizer, table.num_embeddings, table.embedding_dim)
    # Half of the HBM that is left, and a quarter of the host memory, for rows in HBM and those that leave.
    room = min((budget.left_bytes * ranks - state) // 2, budget.host_left_bytes * ranks // 4)
    fits = table.weight_bytes <= budget.ssd_left_bytes * ranks and room > 0
    if not (fits and can_use_ssd(table, optimizer)):
        return []
    share = f"{min(0.2, room / table.weight_bytes):.1g}"
    return [
        f"{where}: {{compute_kernels: [key_value], cache_load_factor: {share}}} "
        f"(a plan alone: needs {byte_size(table.weight_bytes)} of SSD)"
    ]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
