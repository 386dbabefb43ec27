"""What the ranks of the tests of table groups run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from sharding.dense import DenseLayout, DenseParallel, dense_layout
from sharding.grouped_model import GroupedModelParallel
from sharding.plan import Plan
from sharding.planner import make_plan
from sharding.table_groups import TableGroups, table_groups
from sharding.tables import TableSpec
from sharding.topology import Cluster
from sharding.wrap import (
    FusedOptimizer,
    build_table_optimizer,
    dense_parameters,
    initialise_tables,
    shard_model,
)
from tests.distributed.sharding_cases import check_initial_weights
from tests.support.reference_tables import SEED, TableModel, grouped_reference, make_batch, to_kjt

STEPS, BATCH, RATE, EPS = 7, 16, 0.1, 1e-6
RANKS, GROUP = 4, 2


@dataclass(frozen=True)
class Case:
    """Tables in groups of two ranks, the optimizer, and how often the copies are averaged."""

    name: str
    tables: tuple[TableSpec, ...]
    optimizer: str
    sync_every: int = 1
    dense: DenseParallel = "ddp"

    def __str__(self) -> str:
        return self.name

    @property
    def fused(self) -> FusedOptimizer:
        return FusedOptimizer(self.optimizer, learning_rate=RATE, eps=EPS)

    def groups(self, cluster: Cluster) -> TableGroups:
        ranks, local = cluster.world_size, cluster.local_world_size
        return table_groups(ranks, local, GROUP, sync_every_steps=self.sync_every)

    def dense_layout(self, cluster: Cluster) -> DenseLayout:
        size = 2 if self.dense == "hsdp" else None
        ranks, local = cluster.world_size, cluster.local_world_size
        return dense_layout(self.dense, world_size=ranks, local_world_size=local, shard_group_size=size)

    def reference(
        self, groups: int = RANKS // GROUP
    ) -> tuple[list[float], dict[str, Tensor], dict[str, Tensor]]:
        return grouped_reference(
            self.tables,
            optimizer=self.optimizer,
            learning_rate=RATE,
            eps=EPS,
            steps=STEPS,
            size=BATCH,
            groups=groups,
            sync_every=self.sync_every,
        )


@dataclass(frozen=True)
class Block:
    """A part of a table's weight or moment on a rank."""

    row: int
    column: int
    values: Any


@dataclass(frozen=True)
class Outcome:
    """Losses over all ranks, and this rank's part of each table after a last sync."""

    losses: list[float]
    weights: dict[str, list[Block]]
    moments: dict[str, list[Block]]


def save_plans(cases: list[Case], cluster: Cluster, folder: Path) -> None:
    for case in cases:
        plan = make_plan(
            TableModel(case.tables),
            case.tables,
            cluster,
            batch_size_per_rank=BATCH // cluster.world_size,
            embedding_optimizer=case.optimizer,
            groups=case.groups(cluster),
        )
        plan.save(folder / f"{case.name}.json")


def train_cases(
    rank: int, world_size: int, cases: list[Case], cluster: Cluster, folder: str
) -> dict[str, Outcome]:
    """Train each case on this rank."""
    return {case.name: _train(rank, case, cluster, folder) for case in cases}


def _train(rank: int, case: Case, cluster: Cluster, folder: str) -> Outcome:
    plan = Plan.load(Path(folder) / f"{case.name}.json")
    dmp = shard_model(
        TableModel(case.tables),
        plan,
        case.tables,
        case.fused,
        device=torch.device("cpu"),
        dense=case.dense_layout(cluster),
        groups=case.groups(cluster),
    )
    assert isinstance(dmp, GroupedModelParallel)
    initialise_tables(dmp, case.tables, SEED)
    check_initial_weights(dmp, case.tables)
    tables = build_table_optimizer(dmp, case.tables, case.fused)
    dense = torch.optim.SGD([parameter for _, parameter in dense_parameters(dmp)], lr=0.1)
    share = BATCH // cluster.world_size
    rows = range(rank * share, (rank + 1) * share)
    losses = []
    for step in range(STEPS):
        ids, labels = make_batch(case.tables, step % 2, BATCH)
        tables.zero_grad()
        dense.zero_grad()
        loss = dmp(to_kjt(ids, rows), labels[rows.start : rows.stop])
        loss.backward()
        tables.step()
        dense.step()
        if (step + 1) % case.sync_every == 0 or step + 1 == STEPS:
            dmp.sync()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        losses.append(mean.item() / cluster.world_size)
    names = {table.name for table in case.tables}
    weights = {
        name.split(".")[-2]: blocks(value)
        for name, value in dmp.state_dict().items()
        if name.split(".")[-2] in names
    }
    states = tables.state_dict()["state"].values()
    moments = {
        key.rsplit(".", 1)[0]: blocks(value)
        for state in states
        for key, value in state.items()
        if key.endswith(".momentum1")
    }
    return Outcome(losses, weights, moments)


def blocks(value: Tensor) -> list[Block]:
    """Return copies of the parts of a table on this rank."""
    return [Block(row, column, part.detach().clone().numpy()) for part, row, column in _parts(value)]


def _parts(value: Any) -> Iterator[tuple[Tensor, int, int]]:
    """Yield this rank's parts with first row and column, also of a moment that has rows alone."""
    if not isinstance(value, ShardedTensor):
        yield value, 0, 0
        return
    for shard in value.local_shards():
        row, column = [*shard.metadata.shard_offsets, 0][:2]
        yield shard.tensor, row, column
