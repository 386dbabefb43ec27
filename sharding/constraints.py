"""Constraints of a table beside its sharding types: the ranks it may live on, and settings of kernels.

Which of them a device, a data type or an optimizer cannot meet is refused here, before anything is planned.
"""

from __future__ import annotations

from collections.abc import Sequence

from sharding.errors import PlanError
from sharding.sharders import kernels_of, sharding_types_of
from sharding.ssd import check_key_value
from sharding.table_plan import rank_range
from sharding.tables import TableSpec
from sharding.topology import Cluster

ON_EVERY_RANK = frozenset({"row_wise", "data_parallel"})
"""Types with a shard on every rank."""
_ON_WHOLE_HOSTS = frozenset({"table_row_wise", "grid_shard"})
_UVM_KERNELS = ("fused_uvm", "fused_uvm_caching")


def whole_hosts(table: TableSpec, cluster: Cluster) -> tuple[int, ...]:
    """Return the hosts all of whose ranks the table may live on."""
    local = cluster.local_world_size
    return tuple(
        host
        for host in range(cluster.nodes)
        if table.ranks is None or set(range(host * local, (host + 1) * local)) <= set(table.ranks)
    )


def ranks_of_a_host(table: TableSpec, cluster: Cluster) -> int:
    """Return the most ranks of one host that the table may live on."""
    local = cluster.local_world_size
    if table.ranks is None:
        return local
    return max(sum(rank // local == host for rank in table.ranks) for host in range(cluster.nodes))


def keeps_to_ranks(kind: str, table: TableSpec, cluster: Cluster) -> bool:
    """Return whether a sharding type can keep a table on the ranks that it may live on."""
    if table.ranks is None:
        return True
    if kind in ON_EVERY_RANK:
        return len(table.ranks) == cluster.world_size
    return kind not in _ON_WHOLE_HOSTS or bool(whole_hosts(table, cluster))


def check_constraints(tables: Sequence[TableSpec], cluster: Cluster, optimizer: str) -> None:
    """Refuse constraints that cannot be met on a cluster.

    Raises:
        PlanError: names the table, the constraint and what is allowed.
    """
    for table in tables:
        _check_ranks(table, cluster, optimizer)
        _check_hbm(table, cluster)
        _check_rounding(table, cluster)
        check_key_value(table, optimizer, cluster.rank_hardware.ssd_gib)


def _check_ranks(table: TableSpec, cluster: Cluster, optimizer: str) -> None:
    if table.ranks is None:
        return
    where = f"tables.{table.name}.ranks"
    beyond = [rank for rank in table.ranks if rank >= cluster.world_size]
    if beyond or not table.ranks:
        raise PlanError(
            f"a table may live only on ranks of cluster {cluster}",
            where=where,
            got=rank_range(table.ranks),
            allowed=rank_range(range(cluster.world_size)),
            fixes=[f"{where}: {rank_range(range(cluster.world_size))}", "choose a larger cluster"],
        )
    offered = [
        kind
        for kind in sharding_types_of(table, optimizer, cluster.device)
        if set(kernels_of([kind], cluster.device)) & set(table.compute_kernels or ("fused", "dense"))
    ]
    asked = [kind for kind in offered if table.sharding_types is None or kind in table.sharding_types]
    if not asked or any(keeps_to_ranks(kind, table, cluster) for kind in asked):
        return
    local = cluster.local_world_size
    needs = {
        kind: f"{kind} needs every rank, {rank_range(range(cluster.world_size))}" for kind in ON_EVERY_RANK
    }
    needs |= {
        kind: f"{kind} needs all {local} ranks of a host, such as {rank_range(range(local))}"
        for kind in _ON_WHOLE_HOSTS
    }
    allowed = [kind for kind in offered if keeps_to_ranks(kind, table, cluster)]
    raise PlanError(
        f"no allowed sharding type keeps table {table.name} on its ranks: "
        f"{'; '.join(needs[kind] for kind in asked)}",
        where=where,
        got=f"ranks {rank_range(table.ranks)} with {', '.join(asked)}",
        allowed=allowed,
        fixes=[f"tables.{table.name}.sharding_types: [{kind}]" for kind in allowed[:1]]
        + [f"{where}: {rank_range(range(cluster.world_size))}"],
    )


def _check_hbm(table: TableSpec, cluster: Cluster) -> None:
    if not table.enforce_hbm:
        return
    kernels = table.compute_kernels or ()
    if cluster.device != "cuda" or not set(kernels) & set(_UVM_KERNELS):
        raise PlanError(
            "only the UVM kernels of GPUs can be made to keep weights in HBM",
            where=f"tables.{table.name}.enforce_hbm",
            got=f"{', '.join(kernels) or 'the usual kernels'} on {cluster.device}",
            allowed=f"compute_kernels {' or '.join(_UVM_KERNELS)} on cuda",
            fixes=["leave enforce_hbm out", f"tables.{table.name}.compute_kernels: [fused_uvm_caching]"],
        )


def _check_rounding(table: TableSpec, cluster: Cluster) -> None:
    if table.stochastic_rounding is None:
        return
    if cluster.device != "cuda" or table.data_type == "fp32":
        raise PlanError(
            "only GPU kernels round, and only weights below fp32",
            where=f"tables.{table.name}.stochastic_rounding",
            got=f"{table.data_type} on {cluster.device}",
            allowed="fp16 or bf16 on cuda",
            fixes=["leave stochastic_rounding out", f"tables.{table.name}.data_type: fp16"],
        )
