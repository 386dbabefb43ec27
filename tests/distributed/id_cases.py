"""What the ranks of the tests of ids run, and the same training in plain torch with dictionaries of ids."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharding.dense import DenseParallel, dense_layout
from sharding.fresh_rows import FreshRows
from sharding.id_buckets import BucketShape, IdPolicy
from sharding.ids import IdMap
from sharding.optimizers import FusedOptimizer
from sharding.plan import Plan
from sharding.tables import TableSpec
from sharding.weights import local_parts, uniform_block
from sharding.wrap import build_table_optimizer, dense_parameters, initialise_tables, shard_model
from tests.support.reference_ids import ReferenceBuckets
from tests.support.reference_tables import (
    SEED,
    TableModel,
    _embed,
    _initial,
    _reference_step,
    _store,
    loss_of,
    make_linear,
    to_kjt,
)

BATCH, STEPS, RATE, EPS = 16, 14, 0.1, 1e-6
DENSE_EPS = 1e-3  # Where it is tiny, Adam makes whole steps of gradients that are zero but for rounding.


def _table(name: str, rows: int, kind: str, ids: IdPolicy | None, **other: Any) -> TableSpec:
    return TableSpec(name, rows, 16, (f"{name}_f",), sharding_types=(kind,), ids=ids, **other)


TABLES = (
    _table("by_table", 12, "table_wise", IdPolicy("lru")),
    _table("by_row", 150, "row_wise", IdPolicy("lfu", ttl_steps=4), pooling="mean"),
    _table("by_column", 20, "column_wise", IdPolicy("distance_lfu", min_count=2)),
    _table("replicated", 16, "data_parallel", IdPolicy("lru", min_count=2)),
    _table("history", 300, "row_wise", IdPolicy("ttl", ttl_steps=2), pooling="none"),
    _table("fixed", 50, "row_wise", None),
)
"""Types that need no hosts; one bucket and several; and a table whose ids are its rows."""


def host_tables(data_type: str = "fp32") -> tuple[TableSpec, ...]:
    """Return a table of each type that splits rows, columns or both, over two hosts of two ranks."""
    half, quarter = ({"data_type": data_type, "min_partition": width} for width in (8, 4))
    return (
        _table("host_rows", 150, "table_row_wise", IdPolicy("lfu", ttl_steps=4), data_type=data_type),
        _table("host_columns", 20, "table_column_wise", IdPolicy("distance_lfu", min_count=2), **half),
        _table("grid", 141, "grid_shard", IdPolicy("lru", ttl_steps=3), pooling="mean", **half),
        _table("columns", 18, "column_wise", IdPolicy("lru"), **quarter),
        _table("rows", 17, "row_wise", IdPolicy("lfu", min_count=2), data_type=data_type),
        _table("replicated", 16, "data_parallel", IdPolicy("lru", min_count=2), data_type=data_type),
        _table("history", 300, "column_wise", IdPolicy("ttl", ttl_steps=2), pooling="none", **quarter),
        _table("fixed", 50, "row_wise", None, data_type=data_type),
    )


@dataclass(frozen=True)
class Case:
    """Tables and optimizers, and how the dense part is laid out."""

    tables: tuple[TableSpec, ...] = TABLES
    optimizer: str = "adagrad"
    dense: str = "sgd"
    parallel: DenseParallel = "ddp"

    def __str__(self) -> str:
        return f"{self.tables[0].data_type}-{self.optimizer}-{self.dense}-{self.parallel}"

    @property
    def fused(self) -> FusedOptimizer:
        return FusedOptimizer(self.optimizer, learning_rate=RATE, eps=EPS)

    def dense_optimizer(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        if self.dense == "sgd":
            return torch.optim.SGD(parameters, lr=0.1)
        return torch.optim.Adam(parameters, lr=0.003, eps=DENSE_EPS)

    def table(self, name: str) -> TableSpec:
        return next(table for table in self.tables if table.name == name)


FIRST = Case()


def raw_batch(step: int, tables: Sequence[TableSpec] = TABLES) -> tuple[dict[str, list[list[int]]], Tensor]:
    """Return lists of raw ids by feature: popular ones, ones of the day, and padding."""
    rng = random.Random(step)
    ids = {}
    for number, table in enumerate(tables):
        popular = [10**15 * (number + 1) + i * i for i in range(6)]
        today = [10**16 + 1000 * (step // 3) + i for i in range(12)]
        choices = range(50) if table.ids is None else [*popular, *today, 0]
        ids[table.features[0]] = [
            [rng.choice(choices) for _ in range(rng.randrange(1, 5))] for _ in range(BATCH)
        ]
    return ids, torch.tensor([float(rng.random() < 0.5) for _ in range(BATCH)])


def reference_run(case: Case = FIRST, plan: Plan | None = None) -> dict[str, Any]:
    """Return losses, rows of every step and ids evicted, from one process without TorchRec.

    Row-wise Adagrad has a moment for each column block of the plan.
    """
    maps = {t.name: _reference_buckets(t) for t in case.tables if t.ids is not None}
    weights = _initial(case.tables)
    moments = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    start = {name: weight.detach().clone() for name, weight in weights.items()}
    blocks = {t.name: min(shard.columns for shard in t.shards) for t in plan.tables} if plan else {}
    layer = make_linear(case.tables)
    dense = case.dense_optimizer(list(layer.parameters()))
    losses, rows_of_steps = [], []
    for step in range(STEPS):
        ids, labels = raw_batch(step, case.tables)
        for table in case.tables:
            if table.name in maps:
                known, feature = maps[table.name], table.features[0]
                asked = [i for row in ids[feature] for i in row if i]
                changed = sorted(known.update(asked, step + 1))
                weights[table.name].data[changed] = start[table.name][changed]
                moments[table.name][changed] = 0
                ids[feature] = [[known.row_of(i, step + 1) if i else 0 for i in r] for r in ids[feature]]
        rows_of_steps.append(ids)
        parts = [_embed(weights[t.name], ids[t.features[0]], t.pooling) for t in case.tables]
        loss = loss_of(layer, torch.cat(parts, dim=1), labels)
        losses.append(loss.item())
        dense.zero_grad()
        loss.backward()
        dense.step()
        for table in case.tables:
            weight, moment = weights[table.name], moments[table.name]
            touched = sorted({i for row in ids[table.features[0]] for i in row})
            width = blocks.get(table.name, table.embedding_dim)
            _reference_step(weight, moment, touched, case.optimizer, RATE, EPS, width)
            _store(weight, table)
    return {
        "losses": losses,
        "rows": rows_of_steps,
        "evicted": {name: known.evicted for name, known in maps.items()},
        "owners": {name: known.held(STEPS)[0] for name, known in maps.items()},
        "candidates": {name: known.held(STEPS)[1] for name, known in maps.items()},
    }


def _reference_buckets(table: TableSpec) -> ReferenceBuckets:
    assert table.ids is not None
    shape = BucketShape.of(table.num_embeddings)
    return ReferenceBuckets(table.ids, shape.buckets, shape.slots)


def rows_by_feature(ids: KeyedJaggedTensor) -> dict[str, list[list[int]]]:
    return {key: [row.tolist() for row in found.to_dense()] for key, found in ids.to_dict().items()}


class Training:
    """One rank's model, optimizers and ids."""

    def __init__(self, rank: int, world_size: int, plan: str, case: Case = FIRST) -> None:
        share = BATCH // world_size
        self.rows, self.case = range(rank * share, (rank + 1) * share), case
        cpu, tables, found = torch.device("cpu"), case.tables, Plan.load(Path(plan))
        local = found.cluster.local_world_size
        dense = dense_layout(case.parallel, world_size=world_size, local_world_size=local)
        self.dmp = shard_model(TableModel(tables), found, tables, case.fused, device=cpu, dense=dense)
        initialise_tables(self.dmp, tables, SEED)
        self.tables = build_table_optimizer(self.dmp, tables, case.fused)
        self.dense = case.dense_optimizer([p for _, p in dense_parameters(self.dmp)])
        self.ids = IdMap(tables, cpu)
        self.fresh = FreshRows(self.dmp, self.tables, self.ids.tables, SEED)
        self.renewed = {table.name: 0 for table in self.ids.tables}

    def train(self, steps: range) -> dict[str, Any]:
        """Return losses of the global batches, this rank's rows of ids, and what happened to the ids."""
        losses, found = [], []
        for step in steps:
            raw, labels = raw_batch(step, self.case.tables)
            ids, changed = self.ids.train(to_kjt(raw, self.rows))
            before = _blocks(self)
            for table, rows_R in changed.items():
                self.fresh.write(table, rows_R)
            self._check_fresh(before, changed)
            found.append(rows_by_feature(ids))
            self.tables.zero_grad()
            self.dense.zero_grad()
            loss = self.dmp(ids, labels[self.rows.start : self.rows.stop])
            loss.backward()
            self.tables.step()
            self.dense.step()
            mean = loss.detach().clone()
            dist.all_reduce(mean)
            losses.append(mean.item() / dist.get_world_size())
        return {"losses": losses, "rows": found, "figures": self.ids.figures()}

    def _check_fresh(self, before: list[_Found], changed: dict[str, Tensor]) -> None:
        """Require rows with a new owner to be as at the start, and all others as they were."""
        for (name, kind, row, column, now), (*_, was) in zip(_blocks(self), before, strict=True):
            table = self.case.table(name)
            rows, row = changed[name], row % table.num_embeddings
            rows = rows[(rows >= row) & (rows < row + len(now))] - row
            if kind == "weight":
                shape = (table.num_embeddings, table.embedding_dim)
                columns = range(column, column + now.shape[1])
                start = uniform_block(SEED, name, range(row, row + len(now)), columns, table_shape=shape)
                start = start.to(now.dtype)
                assert torch.equal(now[rows], start[rows]), name
                self.renewed[name] += int((was[rows] != start[rows]).any(dim=1).sum())
            else:
                assert not now[rows].any(), (name, kind)
            others = torch.ones(len(now), dtype=torch.bool)
            others[rows] = False
            assert torch.equal(now[others], was[others]), (name, kind)

    def state(self) -> dict[str, Any]:
        return {
            "model": self.dmp.state_dict(),
            "optimizer": self.tables.state_dict(),
            "ids": self.ids.state_dict(),
        }


def train_and_save(rank: int, world_size: int, plan: str, checkpoint: str) -> dict[str, Any]:
    """Train all steps; save in the middle; look up at the end."""
    run = Training(rank, world_size, plan)
    first = run.train(range(STEPS // 2))
    dcp.save(run.state(), checkpoint_id=checkpoint)
    second = run.train(range(STEPS // 2, STEPS))
    before = [part.clone() for part in _entries(run.ids)]
    raw, _ = raw_batch(STEPS - 1)
    unknown = {key: [[7 * 10**17 if i and i > 50 else i for i in row] for row in raw[key]] for key in raw}
    again, strange = (run.ids.look_up(to_kjt(ids, run.rows)) for ids in (raw, unknown))
    after = _entries(run.ids)
    return {
        "losses": first["losses"] + second["losses"],
        "rows": first["rows"] + second["rows"],
        "figures": [first["figures"], second["figures"]],
        "again": rows_by_feature(again),
        "strange": sorted({i for key in list(strange.keys())[:-1] for i in strange[key].values().tolist()}),
        "looked_up": run.ids.lookup_figures(),
        "unchanged": all(torch.equal(a, b) for a, b in zip(before, after, strict=True)),
    }


def _entries(ids: IdMap) -> list[Tensor]:
    """Return this rank's ids, counts and steps of all tables."""
    state = ids.state_dict()
    return [part.to_local() for table in ids.tables for part in state[table.name].values()]


def resume(rank: int, world_size: int, plan: str, checkpoint: str) -> dict[str, Any]:
    """Go on from a checkpoint of any number of ranks."""
    run = Training(rank, world_size, plan)
    state = run.state()
    dcp.load(state, checkpoint_id=checkpoint)
    run.dmp.load_state_dict(state["model"])
    run.tables.load_state_dict(state["optimizer"])
    return run.train(range(STEPS // 2, STEPS))


def train_cases(rank: int, world_size: int, cases: list[Case], folder: str) -> dict[str, dict[str, Any]]:
    """Train each case; return beside what `train` does the learnt rows that were renewed, by table."""
    results = {}
    for case in cases:
        run = Training(rank, world_size, f"{folder}/{case}.json", case)
        results[str(case)] = {**run.train(range(STEPS)), "renewed": run.renewed}
    return results


_Found = tuple[str, str, int, int, Tensor]


def _blocks(run: Training) -> list[_Found]:
    """Return copies of this rank's blocks: table, kind, first row, first column, values."""
    names = {table.name for table in run.ids.tables}
    weights = {name: {"weight": value} for name, value in run.dmp.state_dict().items()}
    found = []
    for values in (weights, run.tables.state_dict()["state"]):
        for name, states in values.items():
            if name.endswith(".weight") and name.split(".")[-2] in names:
                for kind, value in states.items():
                    for block, row, column in local_parts(value):
                        found.append((name.split(".")[-2], kind, row, column, block.clone()))
    return found
