"""What the ranks of the sharding tests run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torchrec.distributed.model_parallel import DistributedModelParallel

from sharding.communication import FULL_PRECISION, TableCommunication
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
BATCH = 24
LEARNING_RATE = 0.1
EPS = 1e-6

MIXED = (
    TableSpec("by_table", 31, 16, ("a",), sharding_types=("table_wise",)),
    TableSpec("by_row", 41, 16, ("b",), sharding_types=("row_wise",)),
    TableSpec("by_column", 23, 16, ("c",), sharding_types=("column_wise",)),
    TableSpec("replicated", 17, 16, ("d",), sharding_types=("data_parallel",)),
    TableSpec("history", 29, 16, ("e",), pooling="none", sharding_types=("row_wise",)),
)
BY_HOST = (
    TableSpec("by_grid", 37, 16, ("f",), sharding_types=("grid_shard",)),
    TableSpec("by_host_rows", 19, 16, ("g",), sharding_types=("table_row_wise",)),
    TableSpec("by_host_columns", 13, 16, ("h",), sharding_types=("table_column_wise",)),
)


@dataclass(frozen=True)
class Case:
    """Tables, the optimizer, what travels between ranks, and which ids are missing when.

    Attributes:
        empty: rows of each batch that have no ids.
        absent: features of which no row has an id in odd steps.
        decay: of the learning rates of tables, from step to step.
    """

    name: str
    tables: tuple[TableSpec, ...]
    optimizer: str
    communication: TableCommunication = FULL_PRECISION
    empty: range = range(0)
    absent: tuple[str, ...] = ()
    decay: float = 1.0

    @property
    def fused(self) -> FusedOptimizer:
        return FusedOptimizer(self.optimizer, learning_rate=LEARNING_RATE, eps=EPS)

    def reference(self, plan: Plan | None = None) -> list[float]:
        """Return the unsharded losses; row-wise Adagrad has a moment for each column block of the plan."""
        widths = None
        if plan is not None:
            widths = {table.name: min(shard.columns for shard in table.shards) for table in plan.tables}
        return reference_losses(
            self.tables,
            optimizer=self.optimizer,
            learning_rate=LEARNING_RATE,
            eps=EPS,
            steps=STEPS,
            size=BATCH,
            widths=widths,
            empty=self.empty,
            absent=self.absent,
            decay=self.decay,
            fp16=self.communication.output_dtype == "fp16",
        )


def tables_of(sharding_type: str, pooling: str, dim: int = 16, **settings: Any) -> tuple[TableSpec, ...]:
    """Three tables: uneven rows, a shared table with two features, one with its own learning rate."""
    common = {"pooling": pooling, "sharding_types": (sharding_type,), **settings}
    return (
        TableSpec("user_table", 37, dim, ("user",), **common),
        TableSpec("item_table", 50, dim, ("item", "last_item"), **common),
        TableSpec("shop_table", 13, dim, ("shop",), learning_rate=0.05, **common),
    )


def save_plans(cases: list[Case], cluster: Cluster, folder: Path) -> None:
    for case in cases:
        plan = make_plan(
            TableModel(case.tables),
            case.tables,
            cluster,
            batch_size_per_rank=BATCH // cluster.world_size,
            embedding_optimizer=case.optimizer,
            communication=case.communication,
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
            assert torch.equal(block, expected.to(block.dtype)), table.name


def _train(rank: int, world_size: int, case: Case, folder: str) -> list[float]:
    plan = Plan.load(Path(folder) / f"{case.name}.json")
    dmp = shard_model(TableModel(case.tables), plan, case.tables, case.fused, device=torch.device("cpu"))
    initialise_tables(dmp, case.tables, SEED)
    check_initial_weights(dmp, case.tables)
    tables = build_table_optimizer(dmp, case.tables, case.fused)
    dense = torch.optim.SGD([parameter for _, parameter in dense_parameters(dmp)], lr=0.1)
    share = BATCH // world_size
    losses, rates = [], [group["lr"] for group in tables.param_groups]
    for step in range(STEPS):
        for group, rate in zip(tables.param_groups, rates, strict=True):
            group["lr"] = rate * case.decay**step
        ids, labels = make_batch(case.tables, step % 2, BATCH, case.empty, case.absent)
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
