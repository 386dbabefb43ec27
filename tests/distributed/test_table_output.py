"""Kernels that look up fp16: training is that of a model in torch whose embeddings are rounded alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from sharding.communication import TableCommunication
from sharding.sharders import SEQUENCE_TYPES, SHARDING_TYPES
from sharding.tables import TableSpec
from sharding.topology import Cluster
from tests.distributed.sharding_cases import BY_HOST, MIXED, Case, save_plans, tables_of, train_cases
from tests.support.ranks import run_distributed

pytestmark = pytest.mark.thorough

FP16 = TableCommunication(output_dtype="fp16")
# Ranks add up parts of a pooled vector, each rounded; all else is rounded once, as by torch.
SUMMED, ONCE = 2.0**-11, 2e-6
SUMMED_TYPES = ("row_wise", "table_row_wise", "grid_shard")


def cases_of(pooling: str, kinds: Sequence[str]) -> list[Case]:
    return [Case(f"{pooling}-{kind}", tables_of(kind, pooling), "sgd", FP16) for kind in kinds]


def check(cases: list[Case], cluster: Cluster, folder: Path) -> None:
    save_plans(cases, cluster, folder)
    results = run_distributed(
        train_cases, cluster.world_size, cases, str(folder), local_world_size=cluster.local_world_size
    )
    wrong = {}
    for case in cases:
        gaps = [abs(a - b) for a, b in zip(results[0][case.name], case.reference(), strict=True)]
        summed = any(
            table.pooling != "none" and (table.sharding_types or ("",))[0] in SUMMED_TYPES
            for table in case.tables
        )
        if max(gaps) > (SUMMED if summed else ONCE):
            wrong[case.name] = gaps
    assert not wrong, f"gaps to the rounded model: {wrong}"


@pytest.mark.parametrize("ranks", [1, 2])
def test_fp16_vectors_train_as_in_torch(tmp_path: Path, ranks: int) -> None:
    cases = cases_of("mean", ["table_wise", "row_wise", "data_parallel"]) + cases_of("none", SEQUENCE_TYPES)
    check(cases, Cluster(ranks_per_node=ranks), tmp_path)


def test_fp16_vectors_of_every_sharding_type_travel_over_two_hosts_of_two(tmp_path: Path) -> None:
    cases = cases_of("sum", SHARDING_TYPES) + cases_of("none", SEQUENCE_TYPES)
    cases.append(Case("together", (*MIXED, *BY_HOST), "sgd", FP16))
    check(cases, Cluster(nodes=2, ranks_per_node=2), tmp_path)


@pytest.mark.parametrize("pooling", ["sum", "none"])
def test_a_rank_without_tables_reads_fp16_too(tmp_path: Path, pooling: str) -> None:
    table = TableSpec("alone", 40, 16, ("f",), pooling=pooling, sharding_types=("table_wise",))  # type: ignore[arg-type]
    check([Case("alone", (table,), "sgd", FP16)], Cluster(ranks_per_node=2), tmp_path)


def test_rounding_shows() -> None:
    case = Case("rounded", tables_of("table_wise", "sum"), "sgd", FP16)
    exact = Case("exact", case.tables, "sgd")
    gaps = [abs(a - b) for a, b in zip(case.reference(), exact.reference(), strict=True)]
    assert max(gaps) > 4 * ONCE
