"""What the ranks of the sharding tests run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torchrec.distributed.model_parallel import DistributedModelParallel

from sharding.plan import Plan
from sharding.planner import make_plan
from sharding.tables import TableSpec
from sharding.topology import Cluster
from sharding.weights import local_parts, uniform_block
from sharding.wrap import (
    FusedOptimizer,
    build_table_optimizer,
    dense_parameters,
    initialise_tables,
    shard_model,
)
from tests.support.reference_tables import SEED, TableModel, make_batch, reference_losses, to_kjt

STEPS = 7
BATCH = 16
LEARNING_RATE = 0.1
EPS = 1e-6


@dataclass(frozen=True)
class Case:
    """Tables, the optimizer, and how close the losses must be."""

    name: str
    tables: tuple[TableSpec, ...]
    optimizer: str

    @property
    def fused(self) -> FusedOptimizer:
        return FusedOptimizer(self.optimizer, learning_rate=LEARNING_RATE, eps=EPS)

    def reference(self) -> list[float]:
        return reference_losses(
            self.tables,
            optimizer=self.optimizer,
            learning_rate=LEARNING_RATE,
            eps=EPS,
            steps=STEPS,
            size=BATCH,
        )


def tables_of(sharding_type: str, pooling: str) -> tuple[TableSpec, ...]:
    """Three tables: uneven rows, a shared table with two features, one with its own learning rate."""
    types = (sharding_type,)
    common = {"pooling": pooling, "sharding_types": types}
    return (
        TableSpec("user_table", 37, 16, ("user",), **common),
        TableSpec("item_table", 50, 16, ("item", "last_item"), **common),
        TableSpec("shop_table", 13, 16, ("shop",), learning_rate=0.05, **common),
    )


def save_plans(cases: list[Case], cluster: Cluster, folder: Path) -> None:
    for case in cases:
        plan = make_plan(
            TableModel(case.tables),
            case.tables,
            cluster,
            batch_size_per_rank=BATCH // cluster.world_size,
            embedding_optimizer=case.optimizer,
        )
        plan.save(folder / f"{case.name}.json")


def train_cases(rank: int, world_size: int, cases: list[Case], folder: str) -> dict[str, list[float]]:
    """Return the losses of each case, averaged over ranks."""
    return {case.name: _train(rank, world_size, case, folder) for case in cases}


def check_initial_weights(dmp: DistributedModelParallel, tables: Sequence[TableSpec]) -> None:
    """Require each local block to be, bit for bit, what seed, table, row and column say."""
    state = dmp.state_dict()
    for table in tables:
        (weight,) = (value for name, value in state.items() if f".{table.name}.weight" in name)
        shape = (table.num_embeddings, table.embedding_dim)
        for block, row, column in local_parts(weight):
            rows, columns = range(row, row + block.shape[0]), range(column, column + block.shape[1])
            expected = uniform_block(SEED, table.name, rows, columns, table_shape=shape)
            assert torch.equal(block, expected), table.name


def _train(rank: int, world_size: int, case: Case, folder: str) -> list[float]:
    plan = Plan.load(Path(folder) / f"{case.name}.json")
    dmp = shard_model(TableModel(case.tables), plan, case.tables, case.fused, device=torch.device("cpu"))
    initialise_tables(dmp, case.tables, SEED)
    check_initial_weights(dmp, case.tables)
    tables = build_table_optimizer(dmp, case.tables, case.fused)
    dense = torch.optim.SGD([parameter for _, parameter in dense_parameters(dmp)], lr=0.1)
    share = BATCH // world_size
    losses = []
    for step in range(STEPS):
        ids, labels = make_batch(case.tables, step % 2, BATCH)
        rows = range(rank * share, (rank + 1) * share)
        tables.zero_grad()
        dense.zero_grad()
        loss = dmp(to_kjt(ids, rows), labels[rows.start : rows.stop])
        loss.backward()
        tables.step()
        dense.step()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        losses.append(mean.item() / world_size)
    return losses
