"""`lookup_group` decides which tables share a kernel call, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sharding.plan import Plan
from sharding.tables import TableSpec
from sharding.topology import Cluster
from sharding.wrap import shard_model
from tests.distributed.sharding_cases import Case, save_plans, train_cases
from tests.support.ranks import run_distributed
from tests.support.reference_tables import TableModel


def tables_in(groups: tuple[str | None, ...], optimizer: str) -> Case:
    tables = [
        TableSpec(f"t{n}", 20 + n, 16, (f"f{n}",), sharding_types=("row_wise",), lookup_group=group)
        for n, group in enumerate(groups)
    ]
    history = TableSpec(
        "history", 30, 16, ("h",), pooling="none", sharding_types=("row_wise",), lookup_group="wide"
    )
    return Case("-".join(map(str, groups)) + optimizer, (*tables, history), optimizer)


CASES = [
    tables_in((None, None, None, None), "adagrad"),
    tables_in(("wide", None, "wide", "narrow"), "adagrad"),
    tables_in(("wide", None, "wide", "narrow"), "rowwise_adagrad"),
]


def calls(rank: int, world_size: int, folder: str) -> list[list[list[str]]]:
    """Return the pooled tables of each kernel call, for each case."""
    result = []
    for case in CASES:
        plan = Plan.load(Path(folder) / f"{case.name}.json")
        dmp = shard_model(TableModel(case.tables), plan, case.tables, case.fused, device=torch.device("cpu"))
        (lookup,) = dmp.module.bags._lookups
        result.append([[t.name for t in group.embedding_tables] for group in lookup.grouped_configs])
    return result


def groups_and_losses(
    rank: int, world_size: int, folder: str
) -> tuple[list[list[list[str]]], dict[str, list[float]]]:
    return calls(rank, world_size, folder), train_cases(rank, world_size, CASES, folder)


def test_groups_split_kernel_calls_and_leave_training_as_it_is(tmp_path: Path) -> None:
    save_plans(CASES, Cluster(ranks_per_node=2), tmp_path)
    for groups, losses in run_distributed(groups_and_losses, 2, str(tmp_path)):
        assert groups[0] == [["t0", "t1", "t2", "t3"]]
        assert groups[1] == groups[2] == [["t0", "t2"], ["t1"], ["t3"]]
        for case in CASES:
            assert losses[case.name] == pytest.approx(case.reference(), abs=1e-5)
