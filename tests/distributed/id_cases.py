"""What the ranks of the tests of ids run, and the same training in plain torch with dictionaries of ids."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

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
    _reference_step,
    loss_of,
    make_linear,
    to_kjt,
)

BATCH, STEPS, RATE, EPS = 16, 14, 0.1, 1e-6
FUSED = FusedOptimizer("adagrad", learning_rate=RATE, eps=EPS)


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
"""Each sharding type of CPU; one bucket and several; and a table whose ids are its rows."""


TABLE_OF_FEATURE = {table.features[0]: table.name for table in TABLES}


def raw_batch(step: int) -> tuple[dict[str, list[list[int]]], Tensor]:
    """Return lists of raw ids by feature: popular ones, ones of the day, and padding."""
    rng = random.Random(step)
    ids = {}
    for number, table in enumerate(TABLES):
        popular = [10**15 * (number + 1) + i * i for i in range(6)]
        today = [10**16 + 1000 * (step // 3) + i for i in range(12)]
        choices = range(50) if table.ids is None else [*popular, *today, 0]
        ids[table.features[0]] = [
            [rng.choice(choices) for _ in range(rng.randrange(1, 5))] for _ in range(BATCH)
        ]
    return ids, torch.tensor([float(rng.random() < 0.5) for _ in range(BATCH)])


def reference_run() -> dict[str, Any]:
    """Return losses, rows of every step and ids evicted, from one process without TorchRec."""
    maps = {t.name: _reference_buckets(t) for t in TABLES if t.ids is not None}
    weights, moments = {}, {}
    for table in TABLES:
        shape = (table.num_embeddings, table.embedding_dim)
        block = uniform_block(SEED, table.name, range(shape[0]), range(shape[1]), table_shape=shape)
        weights[table.name] = block.clone().requires_grad_()
        moments[table.name] = torch.zeros(shape)
    start = {name: weight.detach().clone() for name, weight in weights.items()}
    layer = make_linear(TABLES)
    dense = torch.optim.SGD(layer.parameters(), lr=0.1)
    losses, rows_of_steps = [], []
    for step in range(STEPS):
        ids, labels = raw_batch(step)
        for table in TABLES:
            if table.name in maps:
                known, feature = maps[table.name], table.features[0]
                asked = [i for row in ids[feature] for i in row if i]
                changed = sorted(known.update(asked, step + 1))
                weights[table.name].data[changed] = start[table.name][changed]
                moments[table.name][changed] = 0
                ids[feature] = [[known.row_of(i, step + 1) if i else 0 for i in r] for r in ids[feature]]
        rows_of_steps.append(ids)
        parts = [_embed(weights[t.name], ids[t.features[0]], t.pooling) for t in TABLES]
        loss = loss_of(layer, torch.cat(parts, dim=1), labels)
        losses.append(loss.item())
        dense.zero_grad()
        loss.backward()
        dense.step()
        for table in TABLES:
            touched, dim = sorted({i for row in ids[table.features[0]] for i in row}), table.embedding_dim
            _reference_step(weights[table.name], moments[table.name], touched, "adagrad", RATE, EPS, dim)
    return {"losses": losses, "rows": rows_of_steps, "evicted": {n: m.evicted for n, m in maps.items()}}


def _reference_buckets(table: TableSpec) -> ReferenceBuckets:
    assert table.ids is not None
    shape = BucketShape.of(table.num_embeddings)
    return ReferenceBuckets(table.ids, shape.buckets, shape.slots)


def rows_by_feature(ids: KeyedJaggedTensor) -> dict[str, list[list[int]]]:
    return {key: [row.tolist() for row in ids[key].to_dense()] for key in TABLE_OF_FEATURE}


class Training:
    """One rank's model, optimizers and ids."""

    def __init__(self, rank: int, world_size: int, plan: str, fused: FusedOptimizer = FUSED) -> None:
        share = BATCH // world_size
        self.rows = range(rank * share, (rank + 1) * share)
        cpu = torch.device("cpu")
        self.dmp = shard_model(TableModel(TABLES), Plan.load(Path(plan)), TABLES, fused, device=cpu)
        initialise_tables(self.dmp, TABLES, SEED)
        self.tables = build_table_optimizer(self.dmp, TABLES, fused)
        self.dense = torch.optim.SGD([p for _, p in dense_parameters(self.dmp)], lr=0.1)
        self.ids = IdMap(TABLES, cpu)
        self.fresh = FreshRows(self.dmp, self.tables, self.ids.tables, SEED)

    def train(self, steps: range) -> dict[str, Any]:
        """Return losses of the global batches, this rank's rows of ids, and what happened to the ids."""
        losses, found = [], []
        for step in steps:
            raw, labels = raw_batch(step)
            ids, changed = self.ids.train(to_kjt(raw, self.rows))
            for table, rows_R in changed.items():
                self.fresh.write(table, rows_R)
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
    before = [getattr(b, name).clone() for b in run.ids._buckets.values() for name in ("ids_BE", "counts_BE")]
    raw, _ = raw_batch(STEPS - 1)
    unknown = {key: [[7 * 10**17 if i and i > 50 else i for i in row] for row in raw[key]] for key in raw}
    again, strange = (run.ids.look_up(to_kjt(ids, run.rows)) for ids in (raw, unknown))
    after = [getattr(b, name) for b in run.ids._buckets.values() for name in ("ids_BE", "counts_BE")]
    return {
        "losses": first["losses"] + second["losses"],
        "rows": first["rows"] + second["rows"],
        "figures": [first["figures"], second["figures"]],
        "again": rows_by_feature(again),
        "strange": sorted({i for key in list(strange.keys())[:-1] for i in strange[key].values().tolist()}),
        "unchanged": all(torch.equal(a, b) for a, b in zip(before, after, strict=True)),
    }


def resume(rank: int, world_size: int, plan: str, checkpoint: str) -> dict[str, Any]:
    """Go on from a checkpoint of any number of ranks."""
    run = Training(rank, world_size, plan)
    state = run.state()
    dcp.load(state, checkpoint_id=checkpoint)
    run.dmp.load_state_dict(state["model"])
    run.tables.load_state_dict(state["optimizer"])
    return run.train(range(STEPS // 2, STEPS))


def fresh_rows(rank: int, world_size: int, plan: str, optimizer: str) -> dict[str, int]:
    """Require rows with a new owner to be as at the start, and all others as they were; return how many."""
    run = Training(rank, world_size, plan, FusedOptimizer(optimizer, learning_rate=RATE))
    checked = {table.name: 0 for table in run.ids.tables}
    for step in range(STEPS):
        raw, labels = raw_batch(step)
        ids, changed = run.ids.train(to_kjt(raw, run.rows))
        before = _blocks(run)
        for table, rows_R in changed.items():
            run.fresh.write(table, rows_R)
        for (name, kind, row, column, now), (*_, was) in zip(_blocks(run), before, strict=True):
            rows, row = changed[name], row % spec_of(name).num_embeddings
            rows = rows[(rows >= row) & (rows < row + len(now))] - row
            if kind == "weight":
                spec = spec_of(name)
                shape = (spec.num_embeddings, spec.embedding_dim)
                columns = range(column, column + now.shape[1])
                start = uniform_block(SEED, name, range(row, row + len(now)), columns, table_shape=shape)
                assert torch.equal(now[rows], start[rows]), (name, step)
                checked[name] += int((was[rows] != start[rows]).any(dim=1).sum())
            else:
                assert not now[rows].any(), (name, step)
            others = torch.ones(len(now), dtype=torch.bool)
            others[rows] = False
            assert torch.equal(now[others], was[others]), (name, step)
        run.tables.zero_grad()
        run.dmp(ids, labels[run.rows.start : run.rows.stop]).backward()
        run.tables.step()
    return checked


def spec_of(name: str) -> TableSpec:
    return next(table for table in TABLES if table.name == name)


def _blocks(run: Training) -> list[tuple[str, str, int, int, Tensor]]:
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
