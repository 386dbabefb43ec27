"""Make a sharding plan with TorchRec's EmbeddingShardingPlanner, for this machine or any described cluster.

Needs neither CUDA nor a process group; the tables may be on the meta device. The same input gives the
same plan. Every rank loads the saved plan; nobody plans during a run.
"""

from __future__ import annotations

import gc
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torchrec
from torch import nn
from torchrec.distributed.planner.planners import EmbeddingShardingPlanner
from torchrec.distributed.planner.stats import NoopEmbeddingStats
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import ParameterConstraints, PlannerError, ShardingOption, Topology
from torchrec.distributed.types import PipelineType

from sharding.assembly import over_groups, plan_warnings, rank_memory, table_plans
from sharding.candidates import Effort, check_candidates, planner_constraints, search_effort
from sharding.communication import FULL_PRECISION, TableCommunication
from sharding.constraints import check_constraints
from sharding.dense import DenseLayout
from sharding.dense_part import DensePart, dense_part
from sharding.errors import PlanError
from sharding.estimates import DistinctShardEstimator
from sharding.locate import locate_tables
from sharding.measured_estimates import MeasuredPerfConfig
from sharding.memory import MemoryBudget, TableStorageEstimator, id_slot_bytes, memory_budget
from sharding.plan import Plan
from sharding.proposing import OrderedEnumerator, SearchPartitioner, SearchProposer
from sharding.quiet import quiet_torchrec
from sharding.sharders import check_tables, sharders
from sharding.table_groups import TableGroups, check_kernels, in_groups, table_groups
from sharding.tables import TableSpec
from sharding.topology import Cluster, topology
from sharding.verdicts import any_ranks, check_bytes, check_dense, no_plan_found


def make_plan(
    model: nn.Module,
    tables: Sequence[TableSpec],
    cluster: Cluster,
    *,
    batch_size_per_rank: int,
    embedding_optimizer: str,
    dense: DensePart | None = None,
    storage_reserve_share: float = 0.15,
    timeout_seconds: int = 60,
    groups: TableGroups | None = None,
    communication: TableCommunication = FULL_PRECISION,
    takes: Callable[[int], bool] = any_ranks,
) -> Plan:
    """Place the model's tables on the cluster's ranks, or a copy of them on each group of ranks.

    Args:
        model: with unsharded embedding collections, tables on any device.
        tables: the tables of the model, with constraints and pooling factors.
        cluster: the ranks.
        batch_size_per_rank: rows that one rank reads per step.
        embedding_optimizer: name of the fused optimizer, for its memory.
        dense: the dense part on each rank; by default a copy with Adam, and no word of the time it takes.
        storage_reserve_share: share of each rank's memory left free.
        timeout_seconds: after which no better plan is sought; the first one is, for as long as it takes.
        groups: of ranks that hold a copy of the tables each; default one copy.
        communication: precision in which embeddings travel between ranks.
        takes: whether training takes a number of ranks; larger clusters that an error suggests are of these.

    Returns:
        A plan that fits.

    Raises:
        PlanError: a table's constraint or the optimizer is not offered on the device, `int8` cannot pack
            vectors, or there is no plan: then a `NoPlanError`, whose `verdict` is `cannot_fit` or
            `no_plan_found`.
    """
    start = time.perf_counter()
    if not tables:
        raise PlanError("the model has no embedding tables to plan", where=type(model).__name__)
    check_tables(tables, cluster.device, embedding_optimizer)
    communication.check_device(cluster.device)
    locate_tables(model, tables)
    held = dense or dense_part(model, cluster, DenseLayout(cluster.world_size))
    budget = memory_budget(held, cluster, storage_reserve_share, id_slot_bytes(tables, cluster.world_size))
    check_dense(budget, cluster)
    groups = groups or table_groups(cluster.world_size, cluster.local_world_size)
    check_kernels(tables, groups)
    part = cluster.part(groups.shard_group_size)
    problem = _Problem(
        model, tables, part, budget, batch_size_per_rank, embedding_optimizer, timeout_seconds, communication
    )
    with in_groups(groups):
        best = _best(problem, takes)
    planned = table_plans(best, tables, embedding_optimizer)
    communication.check_tables(planned, batch_size_per_rank)
    memory = rank_memory(best, tables, part, budget, embedding_optimizer, communication)
    return Plan(
        tables=planned,
        cluster=cluster,
        batch_size_per_rank=batch_size_per_rank,
        embedding_optimizer=embedding_optimizer,
        storage_reserve_share=storage_reserve_share,
        memory=over_groups(memory, groups, cluster),
        dense=dense,
        table_shard_group_size=groups.shard_group_size if groups.count > 1 else None,
        table_sync_every_steps=groups.sync_every_steps,
        communication=communication,
        seconds=round(time.perf_counter() - start, 3),
        versions={"torch": torch.__version__, "torchrec": torchrec.__version__},
        warnings=plan_warnings(planned, embedding_optimizer),
    )


@dataclass(frozen=True)
class _Problem:
    """What a plan is sought for; the arguments of `make_plan`, on the ranks that hold one copy."""

    model: nn.Module
    tables: Sequence[TableSpec]
    cluster: Cluster
    budget: MemoryBudget
    batch_size_per_rank: int
    optimizer: str
    timeout_seconds: int
    communication: TableCommunication


def _best(problem: _Problem, takes: Callable[[int], bool]) -> list[ShardingOption]:
    """Return the options of the best plan.

    Raises:
        PlanError: a constraint cannot be met, or there is no plan.
    """
    tables, cluster, budget, optimizer = problem.tables, problem.cluster, problem.budget, problem.optimizer
    check_constraints(tables, cluster, optimizer)
    check_candidates(tables, cluster, budget, optimizer)
    check_bytes(tables, cluster, budget, optimizer, takes)
    for effort in _efforts(tables, cluster):
        found = _search(problem, effort)
        if found is not None:
            return found
    batch_size = problem.batch_size_per_rank
    raise no_plan_found(tables, cluster, budget, optimizer, batch_size_per_rank=batch_size, takes=takes)


def _efforts(tables: Sequence[TableSpec], cluster: Cluster) -> list[Effort]:
    """Return the efforts to try in turn: few types may be too tight a choice."""
    effort = search_effort(tables, cluster)
    return ["few", "all"] if effort == "few" else ["all"]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Stop the garbage collector: it would go through all shards time and again, and there is no garbage."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _search(problem: _Problem, effort: Effort) -> list[ShardingOption] | None:
    tables, cluster, budget = problem.tables, problem.cluster, problem.budget
    constraints = planner_constraints(
        tables, cluster, budget, problem.optimizer, effort, problem.communication.output_type
    )
    ranks = {table.name: table.ranks for table in tables if table.ranks is not None}
    found: list[ShardingOption] = []

    def keep(options: list[ShardingOption]) -> list[ShardingOption]:
        found.extend(options)
        return options

    with quiet_torchrec(), _no_collection():
        left = topology(
            cluster,
            memory_left_bytes=budget.left_bytes,
            host_left_bytes=budget.host_left_bytes,
            ssd_left_bytes=budget.ssd_left_bytes,
        )
        planner = EmbeddingShardingPlanner(
            topology=left,
            batch_size=problem.batch_size_per_rank,
            enumerator=_enumerator(problem, left, constraints),
            # The budget has already taken everything off.
            storage_reservation=FixedPercentageStorageReservation(0.0),
            proposer=SearchProposer(left, problem.timeout_seconds, ranks),
            partitioner=SearchPartitioner(ranks),
            stats=[NoopEmbeddingStats()],
            constraints=constraints,
            debug=False,
            callbacks=[keep],
            timeout_seconds=problem.timeout_seconds,
        )
        try:
            # TorchRec's decorators describe the whole model for a log line that nobody reads.
            inspect.unwrap(EmbeddingShardingPlanner.plan)(
                planner, problem.model, sharders(problem.communication)
            )
        except PlannerError:
            # Its message and type mislead (a timeout reads as lack of storage); ours is made from bytes.
            return None
    return found


def _enumerator(
    problem: _Problem, left: Topology, constraints: dict[str, ParameterConstraints]
) -> OrderedEnumerator:
    storage = TableStorageEstimator(
        left,
        constraints,
        {table.name: table for table in problem.tables},
        problem.optimizer,
        pipeline_type=PipelineType.TRAIN_SPARSE_DIST,
        # Embeddings before their exchange are real memory, most of all under row_wise.
        run_embedding_at_peak_memory=True,
    )
    measured = problem.cluster.rank_hardware.measured
    config = None if measured is None else MeasuredPerfConfig(measured)
    return OrderedEnumerator(
        topology=left,
        batch_size=problem.batch_size_per_rank,
        constraints=constraints,
        estimator=DistinctShardEstimator(left, constraints, [storage], config),
    )
