"""A plan obeys the constraints of each table; placements worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torchrec.distributed.types import BoundsCheckMode

from sharding.errors import PlanError
from sharding.plan import Plan
from sharding.tables import TableSpec
from sharding.units import GIB
from sharding.verdicts import CannotFitError
from tests.unit.sharding.planning import plan_of, tables_of


def planned(cluster: str, optimizer: str = "adagrad", **settings: object) -> Plan:
    """Plan one table of 1,000 rows and 64 columns beside others that fill the ranks."""
    table = TableSpec("t", 1000, 64, ("f",), **settings)  # type: ignore[arg-type]
    return plan_of([table, *others()], cluster, embedding_optimizer=optimizer)


def others() -> list[TableSpec]:
    return [TableSpec(f"o{i}", 5000, 64, (f"o{i}",), sharding_types=("table_wise",)) for i in range(8)]


@pytest.mark.parametrize(
    ("kind", "ranks", "expected"),
    [
        ("table_wise", (5,), [(5, 0, 0, 1000, 64)]),
        # Two ranks share the 64 columns.
        ("column_wise", (1, 6), [(1, 0, 0, 1000, 32), (6, 0, 32, 1000, 32)]),
        # Host 1 of 2 x 4 ranks is the only whole one.
        ("table_row_wise", (0, 1, 4, 5, 6, 7), [(r, 250 * (r - 4), 0, 250, 64) for r in range(4, 8)]),
        ("table_column_wise", (2, 3), [(2, 0, 0, 1000, 32), (3, 0, 32, 1000, 32)]),
        ("grid_shard", (4, 5, 6, 7), [(r, 250 * (r - 4), 0, 250, 64) for r in range(4, 8)]),
        ("row_wise", tuple(range(8)), [(r, 125 * r, 0, 125, 64) for r in range(8)]),
    ],
)
def test_a_table_lives_on_its_ranks_alone(
    kind: str, ranks: tuple[int, ...], expected: list[tuple[int, ...]]
) -> None:
    plan = planned("2x4xcpu", sharding_types=(kind,), ranks=ranks)
    shards = sorted((s.rank, s.row, s.column, s.rows, s.columns) for s in plan.tables[0].shards)
    # Which of two equal ranks takes the first columns is the planner's choice.
    assert [(rank, row, *size) for rank, row, _, *size in shards] == [
        (rank, row, *size) for rank, row, _, *size in expected
    ]
    assert sorted(shard[2] for shard in shards) == sorted(shard[2] for shard in expected)


def test_column_blocks_of_a_grid_take_the_allowed_hosts_in_turn() -> None:
    plan = planned("3x2xcpu", sharding_types=("grid_shard",), ranks=(0, 1, 4, 5), min_partition=16)
    hosts = [shard.rank // 2 for shard in plan.tables[0].shards[::2]]
    assert len(hosts) == 4
    assert set(hosts[:2]) == set(hosts[2:]) == {0, 2}


def test_many_tables_share_two_ranks_where_the_config_says_so() -> None:
    tables = [replace(table, ranks=(1, 2)) for table in tables_of(12)]
    for kinds in (None, ("table_wise", "table_row_wise", "row_wise")):
        plan = plan_of([replace(table, sharding_types=kinds) for table in tables], "2x4xh100")
        assert {rank for table in plan.tables for rank in table.ranks} == {1, 2}


@pytest.mark.parametrize(
    ("kind", "ranks", "words"),
    [
        ("row_wise", (0, 1, 2), ["row_wise needs every rank, 0..7", "ranks 0..2 with row_wise"]),
        ("table_row_wise", (0, 1, 2), ["table_row_wise needs all 4 ranks of a host, such as 0..3"]),
        ("grid_shard", (3, 4, 5, 6), ["grid_shard needs all 4 ranks of a host"]),
        ("data_parallel", (0,), ["data_parallel needs every rank"]),
        ("table_wise", (7, 8), ["only on ranks of cluster 2x4xcpu", "7..8", "0..7"]),
    ],
)
def test_ranks_that_no_type_can_keep_to_are_refused(
    kind: str, ranks: tuple[int, ...], words: list[str]
) -> None:
    with pytest.raises(PlanError) as error:
        planned("2x4xcpu", sharding_types=(kind,), ranks=ranks)
    assert error.value.where == "tables.t.ranks"
    for word in words:
        assert word in str(error.value)
    if kind != "table_wise":
        assert "table_wise" in error.value.allowed  # type: ignore[operator]


def test_a_table_larger_than_its_ranks_cannot_fit_whatever_the_others_have() -> None:
    table = TableSpec("big", 300_000_000, 128, ("f",), ranks=(0, 1))
    with pytest.raises(CannotFitError) as error:
        plan_of([table], "1x8xh100")
    # 143 GiB of weights and 1.1 GiB of moments against twice 68 GiB.
    assert "table big does not fit ranks 0..1 (needs 144 GiB, 136 GiB left" in str(error.value)
    assert error.value.where == "tables.big.ranks"
    assert plan_of([replace(table, ranks=None)], "1x8xh100").verdict == "fits"


def test_enforce_hbm_brings_weights_and_state_of_a_uvm_table_back() -> None:
    table = TableSpec("t", 10_000_000, 128, ("f",), compute_kernels=("fused_uvm_caching",))
    usual, kept = (
        plan_of(
            [replace(table, cache_load_factor=0.1, enforce_hbm=enforce)],
            "1x1xh100",
            batch_size_per_rank=8,
            embedding_optimizer="adagrad",
        )
        for enforce in (None, True)
    )
    weights = moments = 10_000_000 * 128 * 4
    assert (usual.memory[0].host_weights, usual.memory[0].host_optimizer) == (weights, moments)
    assert (kept.memory[0].weights, kept.memory[0].optimizer) == (weights, moments)
    assert kept.memory[0].host_used == 0
    # The cache of a tenth of the rows is there either way.
    assert kept.memory[0].cache == pytest.approx(usual.memory[0].cache, rel=0.01)
    assert kept.memory[0].cache >= 0.1 * weights
    assert kept.memory[0].memory_used == pytest.approx(usual.memory[0].memory_used + weights + moments)
    assert kept.sharding_plan("cuda").plan["sparse.bags"]["t"].enforce_hbm is True


def test_settings_of_the_kernels_reach_torchrec_through_the_file(tmp_path: object) -> None:
    table = TableSpec("t", 1000, 64, ("f",), data_type="fp16", sharding_types=("table_wise",))
    settings = replace(table, stochastic_rounding=False, bounds_check_mode="fatal")
    plan = plan_of([settings, replace(table, name="u", features=("u",))], "1x2xh100")
    loaded = Plan.load(plan.save(f"{tmp_path}/plan.json")).sharding_plan("cuda").plan["sparse.bags"]
    assert loaded["t"].stochastic_rounding is False
    assert loaded["t"].bounds_check_mode == BoundsCheckMode.FATAL
    assert loaded["u"].stochastic_rounding is loaded["u"].bounds_check_mode is loaded["u"].enforce_hbm is None


@pytest.mark.parametrize(
    ("key", "cluster", "settings"),
    [
        ("enforce_hbm", "1x2xh100", {"enforce_hbm": True}),
        ("enforce_hbm", "1x2xcpu", {"enforce_hbm": True}),
        ("stochastic_rounding", "1x2xh100", {"stochastic_rounding": True}),
        ("stochastic_rounding", "1x2xcpu", {"stochastic_rounding": True, "data_type": "fp16"}),
    ],
)
def test_settings_that_no_kernel_here_has_are_refused(
    key: str, cluster: str, settings: dict[str, object]
) -> None:
    with pytest.raises(PlanError) as error:
        planned(cluster, **settings)
    assert error.value.where == f"tables.t.{key}"
    assert error.value.allowed


def test_the_cache_load_factor_is_the_share_of_rows_in_hbm() -> None:
    table = TableSpec("t", 40_000_000, 64, ("f",), compute_kernels=("fused_uvm_caching",))
    caches = [
        plan_of([replace(table, cache_load_factor=share)], "1x1xh100").memory[0].cache
        for share in (0.1, 0.2, 0.4)
    ]
    weights = 40_000_000 * 64 * 4
    # Rows and, per slot, 16 bytes of bookkeeping and per row 4 of the table's number: 8 % at most.
    for share, cache in zip((0.1, 0.2, 0.4), caches, strict=True):
        assert share * weights <= cache <= 1.25 * share * weights + 8 * 40_000_000
    assert caches[0] < GIB * 2
