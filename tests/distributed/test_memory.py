"""What a plan counts against the memory that ranks really take, beyond the process as it was before."""

from __future__ import annotations

import ctypes
import gc
import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from sharding.plan import Plan
from sharding.tables import TableSpec
from sharding.wrap import FusedOptimizer, build_table_optimizer, initialise_tables, shard_model
from tests.support.ranks import run_distributed
from tests.support.reference_tables import SEED, TableModel
from tests.unit.sharding.planning import plan_of

ROWS, DIM, BATCH = 200_000, 32, 1000
TABLES = tuple(
    TableSpec(kind, ROWS, DIM, (kind,), pooling_factors=(ROWS / BATCH,), sharding_types=(kind,))
    for kind in ("row_wise", "table_wise", "column_wise", "data_parallel")
)


def resident_bytes() -> int:
    """Return the memory of this process, without what the allocator could give back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def bytes_taken(rank: int, world_size: int, folder: str, optimizer: str, names: list[str]) -> list[int]:
    """Return what each plan adds to this rank once every row was looked up and updated."""
    return [_taken(Plan.load(Path(folder) / name), optimizer) for name in names]


def _taken(plan: Plan, optimizer: str) -> int:
    planned = {table.name: table for table in plan.tables}
    tables = [replace(t, num_embeddings=planned[t.name].num_embeddings) for t in TABLES]
    fused = FusedOptimizer(optimizer, learning_rate=0.1)
    before = resident_bytes()
    dmp = shard_model(TableModel(tables), plan, tables, fused, device=torch.device("cpu"))
    initialise_tables(dmp, tables, SEED)
    updates = build_table_optimizer(dmp, tables, fused)
    loss = dmp(_every_id(tables), torch.ones(BATCH))
    loss.backward()
    updates.step()
    del loss
    return resident_bytes() - before


def _every_id(tables: list[TableSpec]) -> KeyedJaggedTensor:
    ids = torch.cat([torch.arange(table.num_embeddings) for table in tables])
    lengths = torch.cat([torch.full((BATCH,), table.num_embeddings // BATCH) for table in tables])
    return KeyedJaggedTensor.from_lengths_sync([table.name for table in tables], ids, lengths)


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rowwise_adagrad"])
def test_ranks_take_the_memory_that_the_plan_counts(tmp_path: Path, optimizer: str) -> None:
    small = [replace(table, num_embeddings=BATCH) for table in TABLES]
    # The first plan brings in what tables of any size take: libraries, threads, buffers of gloo.
    settings = {"batch_size_per_rank": BATCH, "embedding_optimizer": optimizer}
    plans = [plan_of(tables, "1x2xcpu", **settings) for tables in (small, TABLES)]
    names = [plan.save(tmp_path / f"{number}.json").name for number, plan in enumerate(plans)]
    found = run_distributed(bytes_taken, 2, str(tmp_path), optimizer, names)
    for rank, (_, taken) in zip(plans[1].memory, found, strict=True):
        tables = rank.weights + rank.optimizer + rank.gradients
        assert tables < taken
        assert taken == pytest.approx(rank.memory_used, rel=0.08)
