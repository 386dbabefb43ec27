"""Embeddings that travel in fewer bits: training stays near the unsharded model, and not at it.

How near follows from the precision: logits of these models are about one, so that losses move by less than
the relative errors of a number on its way and back. Equal losses would show that nothing was packed.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from sharding.communication import TableCommunication
from sharding.sharders import SHARDING_TYPES
from sharding.topology import Cluster
from tests.distributed.sharding_cases import Case, save_plans, tables_of, train_cases
from tests.support.ranks import run_distributed

pytestmark = pytest.mark.thorough

# Of an 8-bit number: of the range of its group of 32.
RELATIVE_ERROR = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8, "int8": 1 / 255}
EQUAL = 5e-7
POOLED = [name for name in SHARDING_TYPES if name != "data_parallel"]
SEQUENCE = ["table_wise", "row_wise", "column_wise"]


def cases_of(pooling: str, types: list[str], pairs: list[tuple[str, str]], dim: int) -> list[Case]:
    return [
        Case(
            f"{pooling}-{name}-{forward}-{backward}",
            # Narrower column shards of sequences would be no whole groups of int8.
            tables_of(name, pooling, dim, min_partition=32 if name == "column_wise" else None),
            # Adagrad would make a whole step of the smallest gradient, of either sign.
            "sgd",
            TableCommunication(forward, backward),
        )
        for name, (forward, backward) in product(types, pairs)
    ]


def check(cases: list[Case], cluster: Cluster, folder: Path) -> None:
    save_plans(cases, cluster, folder)
    results = run_distributed(
        train_cases,
        cluster.world_size,
        cases,
        str(folder),
        local_world_size=cluster.local_world_size,
    )
    wrong = {}
    for case in cases:
        expected, losses = case.reference(), results[0][case.name]
        gaps = [abs(a - b) for a, b in zip(losses, expected, strict=True)]
        sent = case.communication
        most = RELATIVE_ERROR[sent.forward] + RELATIVE_ERROR[sent.backward]
        # Gradients do not show before the second step.
        packed = gaps[0] > EQUAL if sent.forward != "fp32" else gaps[0] <= EQUAL < max(gaps)
        if max(gaps) > most or not packed or not losses[-1] < losses[0] - 0.01:
            wrong[case.name] = gaps
    assert not wrong, f"gaps to the unsharded model: {wrong}"


def test_every_precision_trains_near_the_unsharded_model_on_two_ranks(tmp_path: Path) -> None:
    pairs = [("fp16", "fp32"), ("bf16", "fp32"), ("int8", "fp32"), ("fp32", "fp16"), ("fp32", "bf16")]
    cases = cases_of("sum", ["table_wise", "row_wise"], pairs, 32)
    cases += cases_of("none", ["table_wise", "row_wise"], pairs, 32)
    check(cases, Cluster(ranks_per_node=2), tmp_path)


def test_every_sharding_type_carries_packed_numbers_on_two_hosts_of_two(tmp_path: Path) -> None:
    pairs = [("bf16", "bf16"), ("int8", "bf16"), ("fp32", "bf16")]
    cases = cases_of("sum", POOLED, pairs, 64) + cases_of("none", SEQUENCE, pairs, 64)
    check(cases, Cluster(nodes=2, ranks_per_node=2), tmp_path)
