"""Lookups and updates through the very modules that train: a sharded collection of a rank that is alone.

The rank's own process group leaves out exchanges with the others, which measure the same beside it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.remote_device import _remote_device
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ShardingPlan
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharding.calibration.timing import fit_line, seconds_of, slowest
from sharding.measured import CollectiveRate, LookupRate, Measured, exchange_latency_ms
from sharding.optimizers import FusedOptimizer
from sharding.plan import Plan
from sharding.planner import make_plan
from sharding.tables import TableSpec, build_collections
from sharding.topology import Cluster
from sharding.units import MIB
from sharding.weights import local_parts
from sharding.wrap import shard_model

_OPTIMIZER = FusedOptimizer("rowwise_adagrad")
_LEAST_NS = 1e-3
# What the GPU is does not matter to plans of tables that have one place only.
LARGE_GPU = "b200"


@dataclass(frozen=True)
class Batches:
    """What lookups are measured with.

    Attributes:
        rows: of a batch.
        poolings: ids of a bag, two different numbers.
        features: that look the table up in a step: as many bags as several tables have, in less memory.
        repeats: timed steps.
    """

    rows: int
    poolings: tuple[int, int]
    features: int
    repeats: int


@dataclass(frozen=True)
class StepMs:
    """Medians of a step, slowest rank."""

    forward: float
    backward: float


class TimedTables:
    """Equal tables, whole on one rank each.

    Args:
        group: of this rank alone; None for all ranks.
        device: of this rank.
        cluster: of the group.
        tables: how many on each rank.
        rows: of each.
        dim: columns.
        features: that look each table up.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None,
        device: torch.device,
        cluster: Cluster,
        tables: int,
        rows: int,
        dim: int,
        features: int = 1,
    ) -> None:
        self._device, self._rows = device, rows
        count = tables * cluster.world_size
        specs = [
            TableSpec(
                f"t{table}",
                rows,
                dim,
                tuple(f"f{table}_{feature}" for feature in range(features)),
                sharding_types=("table_wise",),
            )
            for table in range(count)
        ]
        self._features = [feature for spec in specs for feature in spec.features]
        plan = planned_tables(specs, cluster)
        if group is not None:
            plan = _PlanHere(**vars(plan))
        self._dmp = sharded_tables(specs, plan, device, group)

    def step_ms(self, batch: int, pooling: int, repeats: int, warmups: int = 2) -> StepMs:
        """Return the medians of forward and backward passes over batches of random ids."""
        ids_N = torch.randint(self._rows, (len(self._features) * batch * pooling,))
        lengths_FB = torch.full((len(self._features) * batch,), pooling)
        ids = KeyedJaggedTensor.from_lengths_sync(self._features, ids_N, lengths_FB).to(self._device)
        dist.barrier()
        both = [timed_step(self._dmp, ids, self._device) for _ in range(warmups + repeats)][warmups:]
        figures = slowest([statistics.median(each) for each in zip(*both, strict=True)])
        return StepMs(figures[0] * 1e3, figures[1] * 1e3)


def planned_tables(specs: Sequence[TableSpec], cluster: Cluster, batch_size_per_rank: int = 1) -> Plan:
    """Return a plan of pooled tables, as training makes it."""
    return make_plan(
        _bags_of(specs),
        specs,
        cluster,
        batch_size_per_rank=batch_size_per_rank,
        embedding_optimizer=_OPTIMIZER.name,
        storage_reserve_share=0.0,
    )


def sharded_tables(
    specs: Sequence[TableSpec], plan: Plan, device: torch.device, group: dist.ProcessGroup | None = None
) -> DistributedModelParallel:
    """Return pooled tables sharded by a plan, with every page of them written.

    Args:
        specs: the tables.
        plan: for the ranks of `group`.
        device: of this rank.
        group: default the world.
    """
    dmp = shard_model(_bags_of(specs), plan, specs, _OPTIMIZER, device=device, process_group=group)
    with torch.no_grad():
        for name, weight in dmp.state_dict().items():
            if name.endswith(".weight"):
                for part, _row, _column in local_parts(weight):
                    part.uniform_(-0.1, 0.1)
    return dmp


def _bags_of(specs: Sequence[TableSpec]) -> _Bags:
    bags, _ = build_collections(specs)
    if bags is None:
        raise ValueError("there are no pooled tables")
    return _Bags(bags)


class _PlanHere(Plan):
    """A plan for a rank that is alone in a group: placements bear its number and its GPU in the world."""

    def sharding_plan(
        self,
        device: Literal["cuda", "cpu"],
        modules: Mapping[str, str] | None = None,
        first_rank: int = 0,
    ) -> ShardingPlan:
        """Return the plan as DistributedModelParallel takes it."""
        made = super().sharding_plan(device, modules, first_rank)
        own = f"cuda:{torch.cuda.current_device()}" if device == "cuda" else "cpu"
        for module in made.plan.values():
            for table in module.values():
                for shard in table.sharding_spec.shards:
                    shard.placement = _remote_device(f"rank:{dist.get_rank()}/{own}")
        return made


class _Bags(nn.Module):
    """Calls the collection, and waits for what it returns."""

    def __init__(self, bags: nn.Module) -> None:
        super().__init__()
        self.bags = bags

    def forward(self, ids: KeyedJaggedTensor) -> Tensor:
        """Return the pooled vectors, [batch, tables * dim]."""
        pooled = self.bags(ids)
        values: Tensor = (pooled.wait() if hasattr(pooled, "wait") else pooled).values()
        return values


def timed_step(dmp: nn.Module, ids: KeyedJaggedTensor, device: torch.device) -> tuple[float, float]:
    """Return the seconds of a forward pass and of a backward pass with its update."""
    found: list[Tensor] = []
    forward = seconds_of(lambda: found.append(dmp(ids)), device)
    gradient = torch.ones_like(found[0])
    return forward, seconds_of(lambda: torch.autograd.backward(found[0], gradient), device)


def alone(device: torch.device) -> Cluster:
    """Return the cluster of a rank by itself."""
    if device.type == "cpu":
        return Cluster.this_machine(1)
    return Cluster(gpus_per_node=1, gpu=LARGE_GPU)


def table_wise_latency_ms(exchanges: Sequence[CollectiveRate]) -> float:
    """Return what a step of table-wise tables waits for its exchanges to start."""
    first = exchanges[0]
    measured = Measured("", "", (), 0.0, 0.0, 1.0, collectives=tuple(exchanges))
    return sum(exchange_latency_ms([("table_wise", True)], measured, first.ranks, first.nodes))


def measure_overheads(
    group: dist.ProcessGroup | None,
    device: torch.device,
    cluster: Cluster,
    repeats: int,
    counts: tuple[int, int] = (1, 24),
) -> tuple[float, float]:
    """Return milliseconds of a step with next to nothing to do, and what each table of a rank adds to it.

    Args:
        group: of this rank alone; None for all ranks, whose exchanges count then.
        device: of this rank.
        cluster: of the group.
        repeats: timed steps.
        counts: tables on each rank, two different numbers.
    """
    times = []
    for tables in counts:
        step = TimedTables(group, device, cluster, tables, 1000, 16).step_ms(8, 1, repeats, warmups=4)
        times.append(step.forward + step.backward)
    return fit_line(counts, times)


def measure_lookups(
    group: dist.ProcessGroup,
    device: torch.device,
    dim: int,
    table_rows: int,
    batches: Batches,
    overheads: tuple[float, float],
) -> LookupRate:
    """Measure one size of table.

    Args:
        group: of this rank alone.
        device: of this rank.
        dim: columns.
        table_rows: of the table.
        batches: what to look up.
        overheads: of a step and of each table, as `measure_overheads` returns them.
    """
    timed = TimedTables(group, device, alone(device), 1, table_rows, dim, batches.features)
    steps = [timed.step_ms(batches.rows, pooling, batches.repeats) for pooling in batches.poolings]
    bags, overhead_ms = batches.rows * batches.features, sum(overheads)
    forward = fit_lookup([s.forward for s in steps], batches.poolings, bags, overhead_ms / 2)
    backward = fit_lookup([s.backward for s in steps], batches.poolings, bags, overhead_ms / 2)
    return LookupRate(
        dim=dim,
        table_mib=table_rows * dim * 4 / MIB,
        forward_gbps=dim * 4 / forward[0],
        forward_bag_ns=forward[1],
        backward_gbps=dim * 4 / backward[0],
        backward_bag_ns=backward[1],
    )


def fit_lookup(
    times: Sequence[float], poolings: Sequence[int], bags: int, overhead_ms: float
) -> tuple[float, float]:
    """Return nanoseconds of a row and of a bag, neither below 0.

    Args:
        times: milliseconds, one for each pooling.
        poolings: ids of a bag.
        bags: in a step.
        overhead_ms: of a step whatever it looks up.
    """
    per_bag = [max(time - overhead_ms, time / 10) * 1e6 / bags for time in times]
    bag_ns, row_ns = fit_line(poolings, per_bag)
    return max(row_ns, _LEAST_NS), bag_ns
