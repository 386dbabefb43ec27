"""One contender plans one case: `python -m tests.benchmarks.planning.contenders CASE CONTENDER`.

Prints one JSON object: seconds of planning without imports and building the model, peak resident memory of
the process, and what TorchRec's estimators say of the plan.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.proposers import DynamicProgrammingProposer
from torchrec.distributed.planner.shard_estimators import EmbeddingPerfEstimator
from torchrec.distributed.planner.stats import NoopEmbeddingStats
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import ParameterConstraints, Proposer, ShardingOption
from torchrec.distributed.types import PipelineType

from sharding.dense import DenseLayout
from sharding.dense_part import dense_part
from sharding.memory import TableStorageEstimator, memory_budget
from sharding.planner import make_plan
from sharding.quiet import quiet_torchrec
from sharding.sharders import sharders
from sharding.tables import build_collections
from sharding.topology import topology
from sharding.units import GIB
from tests.benchmarks.planning.cases import CASES, Case

OPTIMIZER = "rowwise_adagrad"
RESERVE = 0.15


def _model(case: Case) -> nn.Module:
    bags, _ = build_collections(case.tables)
    assert bags is not None
    return nn.ModuleDict({"sparse": bags, "over": nn.Linear(8, 1)})


def _figures(times: Sequence[float], used: Sequence[int], types: Sequence[str]) -> dict[str, Any]:
    return {
        "perf_max_ms": max(times),
        "perf_max_over_mean": max(times) * len(times) / sum(times),
        "busy_ranks": sum(time > 0 for time in times),
        "hbm_max_gib": max(used) / GIB,
        "types": dict(sorted(Counter(types).items())),
    }


def plan_here(case: Case) -> dict[str, Any]:
    """Plan with this project's planner; seconds are those of `make_plan`."""
    model, tables = _model(case), case.tables
    start = time.perf_counter()
    plan = make_plan(
        model,
        tables,
        case.cluster,
        batch_size_per_rank=case.batch_size_per_rank,
        embedding_optimizer=OPTIMIZER,
        storage_reserve_share=RESERVE,
    )
    seconds = time.perf_counter() - start
    times = [rank.relative_ms for rank in plan.memory]
    used = [rank.memory_used for rank in plan.memory]
    return {"seconds": seconds, **_figures(times, used, [table.sharding_type for table in plan.tables])}


def plan_stock(case: Case, proposers: list[Proposer] | None) -> dict[str, Any]:
    """Plan with TorchRec's planner, its default partitioner and the same topology and estimates.

    Args:
        case: the case.
        proposers: None for TorchRec's default ones.

    Returns:
        The figures; seconds are those of `plan`, with `enumerate`.
    """
    model, tables = _model(case), case.tables
    budget = memory_budget(
        dense_part(model, case.cluster, DenseLayout(case.cluster.world_size)), case.cluster, RESERVE
    )
    left = topology(case.cluster, memory_left_bytes=budget.left_bytes, host_left_bytes=budget.host_left_bytes)
    # All sharding types; kernels outside HBM are left out, which spares TorchRec half of the options.
    constraints = {
        table.name: ParameterConstraints(
            compute_kernels=["fused", "dense"],
            pooling_factors=[1.0] * len(table.features),
            feature_names=list(table.features),
        )
        for table in tables
    }
    storage = TableStorageEstimator(
        left,
        constraints,
        {table.name: table for table in tables},
        OPTIMIZER,
        pipeline_type=PipelineType.TRAIN_SPARSE_DIST,
        run_embedding_at_peak_memory=True,
    )
    speed = EmbeddingPerfEstimator(topology=left, constraints=constraints)
    found: list[ShardingOption] = []

    def keep(options: list[ShardingOption]) -> list[ShardingOption]:
        found.extend(options)
        return options

    planner = EmbeddingShardingPlanner(
        topology=left,
        batch_size=case.batch_size_per_rank,
        enumerator=EmbeddingEnumerator(left, case.batch_size_per_rank, constraints, [speed, storage]),
        storage_reservation=FixedPercentageStorageReservation(0.0),
        proposer=proposers,
        stats=[NoopEmbeddingStats()],
        constraints=constraints,
        debug=False,
        callbacks=[keep],
    )
    with quiet_torchrec():
        start = time.perf_counter()
        planner.plan(model, sharders())
        seconds = time.perf_counter() - start
    times, used = [0.0] * left.world_size, [budget.dense_bytes] * left.world_size
    for option in found:
        for shard in option.shards:
            times[shard.rank] += shard.perf.total
            used[shard.rank] += shard.storage.hbm
    return {"seconds": seconds, **_figures(times, used, [option.sharding_type for option in found])}


CONTENDERS: dict[str, Callable[[Case], dict[str, Any]]] = {
    "shardrec": plan_here,
    "stock": lambda case: plan_stock(case, None),
    "dynamic-programming": lambda case: plan_stock(case, [DynamicProgrammingProposer()]),
}
"""By name."""


def main() -> None:
    """Plan and print."""
    warnings.simplefilter("ignore")
    case, contender = sys.argv[1:]
    figures = CONTENDERS[contender](CASES[case])
    figures["peak_rss_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
