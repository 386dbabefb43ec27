"""Moments of row-wise Adagrad saved under some column shards go on under others, as plain torch has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor

from sharding.plan import Plan
from sharding.topology import Cluster
from sharding.wrap import build_table_optimizer, dense_parameters, initialise_tables, shard_model
from tests.distributed.sharding_cases import BATCH, EPS, LEARNING_RATE, Case, save_plans, tables_of
from tests.support.ranks import run_distributed
from tests.support.reference_tables import TableModel, UnshardedTraining, make_batch, to_kjt
from trainer.checkpoint import load_checkpoint
from trainer.row_moments import load_recut_moments

pytestmark = pytest.mark.thorough

DIM, STEPS = 16, 3
CUTS = {
    "column_wise-4": ("column_wise", 4),
    "column_wise-8": ("column_wise", 8),
    "grid_shard-8": ("grid_shard", 8),
    "row_wise-16": ("row_wise", None),
    "data_parallel-16": ("data_parallel", None),
}
MOVES = [
    ("column_wise-4", "column_wise-8"),
    ("column_wise-4", "row_wise-16"),
    ("column_wise-4", "grid_shard-8"),
    ("column_wise-8", "data_parallel-16"),
    ("row_wise-16", "column_wise-4"),
    ("data_parallel-16", "grid_shard-8"),
    ("grid_shard-8", "column_wise-4"),
    ("grid_shard-8", "column_wise-8"),
]
CLUSTER = Cluster(nodes=2, ranks_per_node=2)


def case_of(cut: str) -> Case:
    kind, width = CUTS[cut]
    return Case(cut, tables_of(kind, "sum", DIM, min_partition=width), "rowwise_adagrad")


class Training:
    """One rank's model and optimizers."""

    def __init__(self, cut: str, folder: str) -> None:
        case = self.case = case_of(cut)
        plan, cpu = Plan.load(Path(folder) / f"{cut}.json"), torch.device("cpu")
        self.dmp = shard_model(TableModel(case.tables), plan, case.tables, case.fused, device=cpu)
        initialise_tables(self.dmp, case.tables, 11)
        self.tables = build_table_optimizer(self.dmp, case.tables, case.fused)
        self.dense = torch.optim.SGD([p for _, p in dense_parameters(self.dmp)], lr=0.1)

    def train(self, rank: int, world_size: int, steps: range) -> list[float]:
        share, losses = BATCH // world_size, []
        rows = range(rank * share, (rank + 1) * share)
        for step in steps:
            ids, labels = make_batch(self.case.tables, step % 2, BATCH)
            self.tables.zero_grad()
            self.dense.zero_grad()
            loss = self.dmp(to_kjt(ids, rows), labels[rows.start : rows.stop])
            loss.backward()
            self.tables.step()
            self.dense.step()
            mean = loss.detach().clone()
            dist.all_reduce(mean)
            losses.append(mean.item() / world_size)
        return losses

    def state(self) -> dict[str, Any]:
        return {"model": self.dmp.state_dict(), "optimizer": {"state": self.tables.state_dict()["state"]}}


def moved(rank: int, world_size: int, folder: str) -> dict[str, list[float]]:
    """Train and save under each cut; load under another one, and go on."""
    for cut in CUTS:
        run = Training(cut, folder)
        run.train(rank, world_size, range(STEPS))
        dcp.save(run.state(), checkpoint_id=f"{folder}/{cut}")
    losses = {}
    for before, after in MOVES:
        run = Training(after, folder)
        state, checkpoint = run.state(), Path(folder) / before
        load_checkpoint(checkpoint, load_recut_moments(checkpoint, state))
        run.dmp.load_state_dict(state["model"])
        run.tables.load_state_dict({**run.tables.state_dict(), **state["optimizer"]})
        losses[f"{before} to {after}"] = run.train(rank, world_size, range(STEPS, 2 * STEPS))
    return losses


def reference(before: str, after: str) -> list[float]:
    """Train with moments of one width, then of another: means of the first over the columns of the second."""
    tables = case_of(before).tables
    training, losses = UnshardedTraining(tables, "rowwise_adagrad", LEARNING_RATE, EPS), []
    for step in range(2 * STEPS):
        width = int((before if step < STEPS else after).rpartition("-")[2])
        if step == STEPS:
            training.moments = {name: means(moment, width) for name, moment in training.moments.items()}
            assert all(moment.any() for moment in training.moments.values())
        widths = {table.name: width for table in tables}
        losses.append(training.step(*make_batch(tables, step % 2, BATCH), widths))
    return losses[STEPS:]


def means(moment_RD: Tensor, width: int) -> Tensor:
    blocks = moment_RD.reshape(len(moment_RD), DIM // width, width)
    return blocks.mean(dim=2).repeat_interleave(width, dim=1)


@pytest.mark.slow
def test_row_moments_go_on_under_other_column_shards(tmp_path: Path) -> None:
    cases = [case_of(cut) for cut in CUTS]
    save_plans(cases, CLUSTER, tmp_path)
    for case in cases:
        plan = Plan.load(tmp_path / f"{case.name}.json")
        assert {str(s.columns) for t in plan.tables for s in t.shards} == {case.name.rpartition("-")[2]}
    (found, *_) = run_distributed(moved, 4, str(tmp_path), local_world_size=CLUSTER.local_world_size)
    assert len(found) == len(MOVES)
    for before, after in MOVES:
        expected = reference(before, after)
        assert found[f"{before} to {after}"] == pytest.approx(expected, abs=1e-5), (before, after)
        # Moments that were forgotten, or taken as they lie, would show.
        if before == "column_wise-4":
            assert reference(before, before) != pytest.approx(expected, abs=1e-5)
