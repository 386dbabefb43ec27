"""Groups of ranks with a copy of the tables each: which sizes there are, and what a plan reckons for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sharding.dense import DenseLayout
from sharding.dense_part import dense_part
from sharding.errors import PlanError
from sharding.plan import Plan
from sharding.report import plan_report
from sharding.table_groups import TableGroups, table_groups
from sharding.tables import TableSpec
from sharding.topology import Cluster
from sharding.traffic import Traffic
from sharding.units import MIB
from sharding.verdicts import CannotFitError
from tests.unit.sharding.planning import model_of, plan_of

H100 = Cluster.parse("4x8xh100")
TABLES = [
    TableSpec("big", 1_000_000, 64, ("a",), sharding_types=("row_wise",)),
    TableSpec("wide", 20_000, 64, ("b",), sharding_types=("table_wise",)),
    TableSpec("small", 1_000, 64, ("c",), sharding_types=("data_parallel",)),
]


def groups_of(cluster: Cluster, size: int | None, every: int = 1) -> TableGroups:
    return table_groups(cluster.world_size, cluster.local_world_size, size, sync_every_steps=every)


def grouped(size: int, every: int = 1, cluster: Cluster = H100) -> Plan:
    return plan_of(TABLES, cluster, groups=groups_of(cluster, size, every))


@pytest.mark.parametrize(
    ("size", "count", "first_of_9"), [(None, 1, 0), (32, 1, 0), (16, 2, 0), (8, 4, 8), (2, 16, 8)]
)
def test_groups_are_whole_hosts_or_parts_of_one(size: int | None, count: int, first_of_9: int) -> None:
    groups = table_groups(32, 8, size)
    assert groups.count == count
    assert groups.first_rank(9) == first_of_9


def test_one_rank_holds_everything_whatever_the_size() -> None:
    assert table_groups(1, 1, 128).count == 1


@pytest.mark.parametrize(
    ("ranks", "local", "size", "words"),
    [
        (32, 8, 12, ["does not divide the ranks evenly", "12, 32 ranks, 8 on each host", "2, 4, 8, 16, 32"]),
        (48, 8, 12, ["neither fills hosts nor divides them", "2, 4, 8, 16, 24, 48"]),
        (8, 4, 128, ["does not divide", "train.table_shard_group_size: 8", "one copy over all ranks"]),
    ],
)
def test_other_sizes_are_refused(ranks: int, local: int, size: int, words: list[str]) -> None:
    with pytest.raises(PlanError) as error:
        table_groups(ranks, local, size)
    assert error.value.where == "train.table_shard_group_size"
    for word in words:
        assert word in str(error.value)


def test_a_sync_sends_an_all_reduce_over_the_copies() -> None:
    # Four copies, each on a host of its own: nothing goes inside.
    assert table_groups(32, 8, 8).sync_traffic(100) == Traffic(0, 2 * 100 * 3 / 4)
    # Four copies on each of four hosts: first inside, then a quarter of it between the hosts.
    assert table_groups(32, 8, 2).sync_traffic(100) == Traffic(2 * 100 * 3 / 4, 2 * 25 * 3 / 4)
    assert table_groups(32, 8).sync_traffic(100) == Traffic(0, 0)


@pytest.mark.parametrize(
    ("whole", "ranks", "shape"),
    [("4x8xh100", 16, (2, 8)), ("4x8xh100", 2, (1, 2)), ("2xp5.48xlarge", 4, (1, 4)), ("2x4xcpu", 2, (1, 2))],
)
def test_a_part_of_a_cluster_has_the_same_ranks(whole: str, ranks: int, shape: tuple[int, int]) -> None:
    cluster = Cluster.parse(whole)
    part = cluster.part(ranks)
    assert (part.nodes, part.local_world_size) == shape
    assert part.rank_hardware == cluster.rank_hardware


def test_tables_are_planned_on_one_group_and_every_group_is_like_it() -> None:
    made = grouped(16)
    alone = plan_of(TABLES, "2x8xh100")
    assert [t.shards for t in made.tables] == [t.shards for t in alone.tables]
    assert len(made.memory) == 32
    for rank in made.memory:
        like = alone.memory[rank.rank % 16]
        assert replace(rank, rank=like.rank, step=like.step) == like
    # Of a copy over all ranks, each holds half as many rows of `big`.
    most = [max(rank.weights for rank in each.memory) for each in (made, plan_of(TABLES, H100))]
    assert most[0] - most[1] == 1_000_000 * 64 * 4 / 32


def test_gradients_of_data_parallel_tables_are_summed_over_all_ranks() -> None:
    small = TABLES[2:]
    made = plan_of(small, H100, groups=groups_of(H100, 16))
    assert [r.step.traffic for r in made.memory] == [r.step.traffic for r in plan_of(small, H100).memory]
    assert made.sync_traffic == Traffic(0, 0)


def test_syncs_count_in_bytes_and_time_spread_over_the_steps_between_them() -> None:
    often, rarely = grouped(16), grouped(16, every=10)
    # Weights and one fp32 moment a row, of a sixteenth of `big` and of all of `wide`, to one other copy.
    size = (1_000_000 / 16 + 20_000) * (64 * 4 + 4)
    assert often.sync_traffic == Traffic(0, size)
    assert often.step.table_sync_ms == pytest.approx(size / (H100.rank_hardware.nic_gbps * 1e6))
    assert rarely.step.table_sync_ms == pytest.approx(often.step.table_sync_ms / 10)
    assert often.step.total_ms - rarely.step.total_ms == pytest.approx(0.9 * often.step.table_sync_ms)
    nic = [plan.estimate["nic_max_mib"] for plan in (often, rarely)]
    assert nic[0] - nic[1] == pytest.approx(0.9 * size / MIB, rel=1e-2)


def test_the_dense_part_is_that_of_the_whole_cluster() -> None:
    held = dense_part(model_of(TABLES), H100, DenseLayout(32))
    made = plan_of(TABLES, H100, dense=held, groups=groups_of(H100, 16))
    assert made.dense == held


def test_a_plan_is_kept_told_and_compared_with_its_groups(tmp_path: Path) -> None:
    made, one = grouped(8, every=5), plan_of(TABLES, H100)
    assert Plan.load(made.save(tmp_path / "plan.json")) == made
    facts = made.summary()["table_groups"]
    assert (facts["groups"], facts["shard_group_size"]) == (4, 8)
    assert facts["sync_every_steps"] == 5
    assert facts["sync_nic_mib"] == pytest.approx(made.sync_traffic.nic / MIB, rel=1e-3)
    assert "4 copies, each on a group of 8 ranks, averaged every 5 steps" in plan_report(made)
    assert "copies" not in plan_report(one)
    lines = one.diff(made)
    assert "table_shard_group_size: 32 -> 8" in lines
    assert "table_sync_every_steps: 1 -> 5" in lines


@pytest.mark.parametrize(("planned", "run"), [(8, None), (8, 16), (None, 8)])
def test_a_run_with_other_groups_is_refused(planned: int | None, run: int | None) -> None:
    made = plan_of(TABLES, H100, groups=groups_of(H100, planned))
    made.check(TABLES, world_size=32, device="cuda", table_shard_group_size=planned)
    with pytest.raises(PlanError, match=f"table_shard_group_size: plan {planned or 32}, run {run or 32}"):
        made.check(TABLES, world_size=32, device="cuda", table_shard_group_size=run)


def test_tables_that_a_group_cannot_hold_are_refused_with_a_larger_group() -> None:
    huge = [TableSpec("huge", 3_000_000_000, 128, ("a",))]
    assert plan_of(huge, H100).groups.count == 1
    with pytest.raises(CannotFitError) as error:
        plan_of(huge, H100, groups=groups_of(H100, 8))
    assert "one of 4 groups that hold all tables each" in error.value.where
    assert error.value.fixes[0] == "train.table_shard_group_size: 16"
    assert not any(fix.startswith("--cluster") for fix in error.value.fixes)


def test_kernels_with_weights_outside_hbm_are_refused() -> None:
    tables = [TableSpec("t", 1000, 64, ("a",), compute_kernels=("fused", "fused_uvm_caching"))]
    assert plan_of(tables, H100)
    with pytest.raises(PlanError, match="keeps as a whole in memory") as error:
        plan_of(tables, H100, groups=groups_of(H100, 8))
    assert error.value.where == "tables.t.compute_kernels"
    assert error.value.got == "fused_uvm_caching"


def test_a_plan_whose_groups_do_not_make_up_the_ranks_is_damaged(tmp_path: Path) -> None:
    file = grouped(8).save(tmp_path / "plan.json")
    text = file.read_text()
    file.write_text(text.replace('"table_shard_group_size": 8', '"table_shard_group_size": 5'))
    with pytest.raises(PlanError, match="damaged: groups of 5 ranks of 32"):
        Plan.load(file)
