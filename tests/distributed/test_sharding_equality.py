"""A sharded model starts and trains like the unsharded one, for every sharding type that CPU offers.

Each case checks on every rank that the initial weights are those of the unsharded table, bit for bit, then
compares the losses of seven steps with a reference in plain torch. Row-wise Adagrad under split columns is
left out: its moment is a mean over the columns of a shard, so it is another optimizer there by design, and
`make_plan` warns of it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sharding.sharders import COLUMN_SPLITS, SHARDING_TYPES, sharding_types_of
from sharding.tables import TableSpec
from sharding.topology import Cluster
from tests.distributed.sharding_cases import Case, save_plans, tables_of, train_cases
from tests.support.ranks import run_distributed

SEQUENCE = TableSpec("any", 10, 16, ("any",), pooling="none")
SEQUENCE_TYPES = sharding_types_of(SEQUENCE, "cpu", "adagrad")


def check(cases: list[Case], cluster: Cluster, folder: Path, timeout: float = 240) -> None:
    save_plans(cases, cluster, folder)
    results = run_distributed(
        train_cases,
        cluster.world_size,
        cases,
        str(folder),
        timeout=timeout,
        local_world_size=cluster.local_world_size,
    )
    wrong = {}
    for case in cases:
        losses, expected = results[0][case.name], case.reference()
        assert expected[-1] < expected[0] - 0.01, "the reference must learn, else the test proves nothing"
        gap = max(abs(a - b) for a, b in zip(losses, expected, strict=True))
        if gap > 1e-5:
            wrong[case.name] = gap
    assert not wrong, f"losses differ from the unsharded model: {wrong}"


def grid(types: dict[str, tuple[str, ...]], optimizers: list[str]) -> list[Case]:
    """Return a case for each pooling, type and optimizer that must be equal."""
    cases = []
    for pooling, names in types.items():
        for name in names:
            for optimizer in optimizers:
                if optimizer == "rowwise_adagrad" and name in COLUMN_SPLITS:
                    continue
                cases.append(Case(f"{pooling}-{name}-{optimizer}", tables_of(name, pooling), optimizer))
    return cases


def test_every_sharding_type_trains_like_the_unsharded_model_on_two_ranks(tmp_path: Path) -> None:
    cases = grid({"sum": SHARDING_TYPES, "none": SEQUENCE_TYPES}, ["adagrad"])
    cases += grid({"mean": ("row_wise", "data_parallel"), "none": ("row_wise",)}, ["rowwise_adagrad"])
    # Adagrad hides a wrong scale of the gradients; SGD shows it.
    cases += grid({"sum": ("row_wise", "table_wise", "data_parallel"), "mean": ("grid_shard",)}, ["sgd"])
    check(cases, Cluster(ranks_per_node=2), tmp_path)


def test_types_inside_a_host_train_like_the_unsharded_model_on_two_hosts_of_two(tmp_path: Path) -> None:
    types = ("table_row_wise", "table_column_wise", "grid_shard", "row_wise", "data_parallel")
    check(grid({"sum": types}, ["adagrad"]), Cluster(nodes=2, ranks_per_node=2), tmp_path)


def test_one_rank_trains_like_the_unsharded_model(tmp_path: Path) -> None:
    types = {"sum": ("table_wise", "row_wise", "data_parallel"), "none": ("table_wise",)}
    check(grid(types, ["rowwise_adagrad"]), Cluster(), tmp_path)


def test_tables_with_fewer_rows_than_ranks_train_like_the_unsharded_model(tmp_path: Path) -> None:
    tables = tuple(TableSpec(f"t{n}", n, 16, (f"f{n}",), pooling="mean") for n in (1, 3, 5, 6))
    sequence = TableSpec("s3", 3, 16, ("g3",), pooling="none")
    check([Case("free", (*tables, sequence), "rowwise_adagrad")], Cluster(ranks_per_node=4), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cluster", [Cluster(), Cluster(ranks_per_node=2), Cluster(nodes=2, ranks_per_node=2)], ids=str
)
def test_full_grid_trains_like_the_unsharded_model(tmp_path: Path, cluster: Cluster) -> None:
    types = {"sum": SHARDING_TYPES, "mean": SHARDING_TYPES, "none": SEQUENCE_TYPES}
    check(grid(types, ["sgd", "adagrad", "rowwise_adagrad"]), cluster, tmp_path, timeout=500)
