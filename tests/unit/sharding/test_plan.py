from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from sharding.dense import DenseLayout
from sharding.dense_part import dense_part
from sharding.errors import PlanError
from sharding.plan import Plan, rank_range
from sharding.plan_differences import tables_text
from sharding.report import plan_report
from sharding.sharders import SHARDING_TYPES
from sharding.tables import TableSpec
from sharding.topology import Cluster
from sharding.units import byte_size
from tests.unit.sharding.planning import model_of, plan_of, tables_of

TABLES = [
    *tables_of(4, sharding_types=("row_wise",)),
    TableSpec("tiny", 20, 32, ("tiny",), sharding_types=("data_parallel",)),
    TableSpec("history", 300, 32, ("history",), pooling="none", sharding_types=("table_wise",)),
]
LAYOUTS = (DenseLayout(2), DenseLayout(2, shard_group_size=2))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(TABLES, "1x2xcpu")


@pytest.fixture
def saved(plan: Plan, tmp_path: Path) -> Path:
    return plan.save(tmp_path / "deep" / "plan.json")


def test_a_plan_survives_its_file(plan: Plan, saved: Path) -> None:
    loaded = Plan.load(saved)
    assert loaded == plan
    assert loaded.diff(plan) == []
    assert loaded.sharding_plan("cpu") == plan.sharding_plan("cpu")
    assert os.listdir(saved.parent) == ["plan.json"]


def test_a_gpu_plan_with_its_own_figures_survives_its_file(tmp_path: Path) -> None:
    plain = Cluster.parse("1x4xa100-80")
    cluster = replace(plain, hardware=replace(plain.rank_hardware, hbm_gib=64))
    gpu = plan_of(tables_of(3), cluster)
    loaded = Plan.load(gpu.save(tmp_path / "plan.json"))
    assert loaded == gpu
    assert loaded.cluster.rank_hardware.hbm_gib == 64
    assert loaded.diff(plan_of(tables_of(3), plain))[0].startswith("hardware.hbm_gib: 64 -> 80")


def test_the_file_has_one_line_for_each_table(plan: Plan, saved: Path) -> None:
    lines = [line for line in saved.read_text().splitlines() if line.startswith('  {"name"')]
    assert [json.loads(line.rstrip(","))["name"] for line in lines] == [t.name for t in plan.tables]
    document = json.loads(saved.read_text())
    assert document["verdict"] == "fits"
    assert document["cluster"]["name"] == "1x2xcpu"
    assert {"torch", "torchrec"} <= set(document["versions"])
    assert "uncalibrated" in document["estimate"]["basis"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "damaged"),
        (lambda text: text.replace('"format_version": 2', '"format_version": 99'), "another format version"),
        (lambda text: text.replace('"tables"', '"rows"'), "no key 'tables'"),
        (lambda text: text.replace('"num_embeddings": 300', '"num_embeddings": 301'), "do not cover it"),
        (lambda text: text.replace('"ranks_per_node": 2', '"ranks_per_node": 3'), "2 ranks for 3 ranks"),
        (lambda text: text.replace('"nodes": 1,', '"nodes": 1000000000,'), "for 2000000000 ranks"),
        (lambda text: text.replace('{"rank": 0,', '{"rank": 1,'), "not in their order"),
        (lambda text: "[1, 2]", "this is no plan"),
        (lambda text: "{}", "this is no plan"),
    ],
)
def test_a_damaged_plan_is_refused_with_file_and_reason(saved: Path, damage: object, message: str) -> None:
    text = saved.read_text()
    damaged = damage(text)  # type: ignore[operator]
    assert damaged != text
    saved.write_text(damaged)
    with pytest.raises(PlanError, match=message) as error:
        Plan.load(saved)
    assert str(saved) in error.value.where
    assert error.value.fixes


EDITED = [
    TableSpec("whole", 20, 8, ("a",), sharding_types=("table_wise",)),
    TableSpec("rows", 21, 8, ("b",), sharding_types=("row_wise",)),
    TableSpec("columns", 20, 8, ("c",), sharding_types=("column_wise",)),
    TableSpec("host", 21, 8, ("d",), sharding_types=("table_row_wise",)),
    TableSpec("copies", 20, 8, ("e",), sharding_types=("data_parallel",)),
    TableSpec("history", 20, 8, ("f",), pooling="none", sharding_types=("table_wise",)),
]


@pytest.mark.parametrize(
    ("table", "changes", "message"),
    [
        ("whole", {"shards": [[4, 0, 0, 20, 8]]}, "rank 4 is none of 0..3"),
        ("whole", {"shards": [[0, 0, 0, 10, 8], [1, 10, 0, 10, 8]]}, "cut as those of table_wise"),
        ("whole", {"sharding_type": "table_wize"}, "sharding_type table_wize, not one of data_parallel"),
        ("whole", {"sharding_type": "row_wise"}, "cut as those of row_wise"),
        ("whole", {"compute_kernel": "fused_uvm"}, "compute_kernel fused_uvm, not one of fused"),
        ("whole", {"bounds_check_mode": "loud"}, "not fatal, warning or ignore"),
        ("history", {"sharding_type": "table_row_wise"}, "sharding_type table_row_wise, not one of"),
        ("rows", {"shards": [[r, 6 * r, 0, 6 - (r > 1), 8] for r in range(3)]}, "do not cover"),
        ("rows", {"shards": [[r, 0, 0, (6, 6, 6, 3)[r], 8] for r in range(4)]}, "cut as those of row_wise"),
        (
            "rows",
            {"shards": [[(1, 0, 2, 3)[i], 6 * i, 0, (6, 6, 6, 3)[i], 8] for i in range(4)]},
            "row_wise: equal blocks of rows on all ranks, in their order",
        ),
        ("columns", {"shards": [[0, 0, 0, 20, 6], [1, 0, 6, 20, 2]]}, "cut as those of column_wise"),
        ("columns", {"shards": [[0, 0, 0, 20, 4], [1, 0, 0, 20, 4]]}, "cut as those of column_wise"),
        ("host", {"shards": [[1, 0, 0, 11, 8], [2, 11, 0, 10, 8]]}, "on all ranks of one host"),
        ("copies", {"shards": [[r, 0, 0, 20, 8] for r in (0, 1, 2, 2)]}, "whole table on every rank"),
    ],
)
def test_an_edited_plan_that_no_run_can_follow_is_refused_with_table_and_reason(
    tmp_path: Path, table: str, changes: dict[str, object], message: str
) -> None:
    saved = plan_of(EDITED, "2x2xcpu", embedding_optimizer="adagrad").save(tmp_path / "plan.json")
    assert Plan.load(saved)
    document = json.loads(saved.read_text())
    (record,) = (record for record in document["tables"] if record["name"] == table)
    record.update(changes)
    record.pop("ranks")
    saved.write_text(json.dumps(document))
    with pytest.raises(PlanError, match=message) as error:
        Plan.load(saved)
    assert f"table {table}" in str(error.value)


def edited(saved: Path, path: tuple[str | int, ...], value: object) -> None:
    """Put a value into a plan file."""
    document = json.loads(saved.read_text())
    *way, last = path
    place = document
    for step in way:
        place = place[step]
    place[last] = value
    saved.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("path", "value", "key", "allowed"),
    [
        (("batch_size_per_rank",), None, "batch_size_per_rank", "a whole number"),
        (("batch_size_per_rank",), "512", "batch_size_per_rank", "a whole number"),
        (("batch_size_per_rank",), 0, "batch_size_per_rank", "a whole number, 1 or more"),
        (("batch_size_per_rank",), True, "batch_size_per_rank", "a whole number"),
        (("rows_per_epoch",), "many", "rows_per_epoch", "a whole number, 1 or more, or null"),
        (("storage_reserve_share",), 1.5, "storage_reserve_share", "from 0 to below 1"),
        (("embedding_optimizer",), 7, "embedding_optimizer", "text"),
        (("verdict",), "perhaps", "verdict", "fits, no_plan_found, cannot_fit"),
        (("table_sync_every_steps",), 0, "table_sync_every_steps", "1 or more"),
        (("table_communication", "forward"), None, "table_communication.forward", "text"),
        (("table_communication", "forward"), "fp8", "train.table_communication.forward", "fp16"),
        (("versions",), [], "versions", "an object"),
        (("warnings",), "none", "warnings", "a list"),
        (("cluster",), "1x2xcpu", "cluster", "an object"),
        (("cluster", "nodes"), 1.5, "cluster.nodes", "a whole number"),
        (("cluster", "hardware"), None, "cluster.hardware", None),
        (("cluster", "hardware", "nic_gbps"), 0, "cluster.hardware.nic_gbps", "a number above 0"),
        (("cluster", "hardware", "pcie_gbps"), None, "cluster.hardware.pcie_gbps", "a number above 0"),
        (("cluster", "hardware", "hbm_gib"), "80", "cluster.hardware.hbm_gib", "a number"),
        (("dense",), [], "dense", "an object"),
        (("memory", 0, "step", "traffic", "nic"), "0", "memory[0].step.traffic.nic", "a number"),
        (("tables",), {}, "tables", "a list"),
        (("tables", 0), "t0", "tables[0]", "an object"),
        (("tables", 1, "embedding_dim"), None, "tables.t1.embedding_dim", "a whole number"),
        (("tables", 1, "enforce_hbm"), "yes", "tables.t1.enforce_hbm", "true or false, or null"),
        (("tables", 1, "shards", 0), [0, 0, 0, 150], "tables.t1.shards[0]", "first row, first column"),
        (("tables", 1, "shards", 0, 3), "150", "tables.t1.shards[0]", "[rank"),
        (("tables", 1, "kernel"), "fused", "tables.t1.kernel", "compute_kernel"),
        (("memory", 1, "weights"), None, "memory[1].weights", "a whole number, 0 or more"),
        (("memory", 1, "step"), 3, "memory[1].step", "an object"),
        (("memory", 1, "step", "compute_ms"), float("nan"), "memory[1].step.compute_ms", "a number"),
    ],
)
def test_a_value_that_cannot_be_is_named_by_its_key(
    saved: Path, path: tuple[str | int, ...], value: object, key: str, allowed: str | None
) -> None:
    edited(saved, path, value)
    with pytest.raises(PlanError) as error:
        Plan.load(saved)
    assert error.value.where == f"{saved}: {key}"
    assert allowed is None or allowed in error.value.message().partition("allowed: ")[2]
    assert "shardrec plan CONFIG" in error.value.fixes[-1]


def test_a_missing_key_is_named(saved: Path) -> None:
    document = json.loads(saved.read_text())
    del document["memory"][1]["step"]["traffic"]
    saved.write_text(json.dumps(document))
    with pytest.raises(PlanError, match="the plan has no key 'traffic'") as error:
        Plan.load(saved)
    assert error.value.where == f"{saved}: memory[1].step"


def test_a_table_may_be_moved_by_hand_with_shards_and_ranks_alike(tmp_path: Path) -> None:
    saved = plan_of(EDITED, "2x2xcpu", embedding_optimizer="adagrad").save(tmp_path / "plan.json")
    document = json.loads(saved.read_text())
    document["tables"][0].update(shards=[[3, 0, 0, 20, 8]], ranks=[3])
    saved.write_text(json.dumps(document))
    assert Plan.load(saved).tables[0].ranks == (3,)
    document["tables"][0]["ranks"] = [2]
    saved.write_text(json.dumps(document))
    with pytest.raises(PlanError, match="ranks of table whole are not those of its shards"):
        Plan.load(saved)
    document["tables"][0]["ranks"] = [3]
    document["tables"].append(document["tables"][0])
    saved.write_text(json.dumps(document))
    with pytest.raises(PlanError, match="table whole is there twice"):
        Plan.load(saved)


@pytest.mark.parametrize("where", ["3x4xh100", "2x2xcpu", "1x1xcpu"])
@pytest.mark.parametrize("kind", SHARDING_TYPES)
def test_plans_of_every_type_are_read_again(kind: str, where: str, tmp_path: Path) -> None:
    tables = [
        TableSpec(f"t{rows}", rows, dim, (f"f{rows}",), sharding_types=(kind,))
        for rows, dim in ((4, 4), (13, 20), (99, 128), (1000, 260))
    ]
    if where == "3x4xh100":  # Ranks without a row.
        tables.append(TableSpec("tiny", 1, 16, ("tiny",), sharding_types=(kind,)))
    plan = plan_of(tables, where, embedding_optimizer="adagrad")
    assert Plan.load(plan.save(tmp_path / "plan.json")) == plan


def test_a_missing_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot be read"):
        Plan.load(tmp_path / "plan.json")


def test_a_failed_save_leaves_the_old_plan(plan: Plan, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = saved.read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PlanError, match="No space left on device"):
        replace(plan, batch_size_per_rank=1).save(saved)
    assert saved.read_text() == old
    assert os.listdir(saved.parent) == ["plan.json"]


def test_diff_names_each_thing_that_moved(plan: Plan) -> None:
    moved = [replace(t, sharding_types=("table_wise",)) if t.name == "t1" else t for t in TABLES[:-1]]
    other = plan_of([*moved, TableSpec("new", 30, 32, ("new",))], "1x2xcpu", batch_size_per_rank=64)
    lines = plan.diff(other)
    assert "batch_size_per_rank: 512 -> 64" in lines
    assert "table t1: sharding_type row_wise -> table_wise" in lines
    assert any(line.startswith("table t1: ranks 0..1 -> ") for line in lines)
    assert "table history: only in the first" in lines
    assert "table new: only in the second" in lines
    assert not any("t0" in line for line in lines)
    assert len(lines) == len(set(lines))
    larger = plan.diff(plan_of(TABLES, "1x4xcpu"))
    assert "cluster: 1x2xcpu -> 1x4xcpu" in larger
    assert not any("group" in line for line in larger)
    dense = [dense_part(model_of(TABLES), plan.cluster, layout, parallel="fsdp") for layout in LAYOUTS]
    changed = replace(plan, dense=dense[0]).diff(replace(plan, dense=replace(dense[1], optimizer_name="sgd")))
    assert "dense_parallel: ddp -> fsdp" in changed
    assert "dense_shard_group_size: 1 -> 2" in changed
    assert "dense_optimizer: adam -> sgd" in changed


def test_tables_that_differ_alike_share_a_line() -> None:
    old = plan_of(TABLES, "1x2xcpu")
    halved = tuple(replace(table, data_type="fp16") for table in old.tables)
    assert old.diff(replace(old, tables=halved)) == ["tables t0..t3, tiny, history: data_type fp32 -> fp16"]
    assert tables_text(["C9", "C10", "C11", "C13", "C14", "07", "08", "x"]) == (
        "tables C9..C11, C13, C14, 07, 08, x"
    )
    assert tables_text(["only"]) == "table only"


def test_a_plan_for_another_run_is_refused_with_each_difference(plan: Plan) -> None:
    plan.check(TABLES, world_size=2, device="cpu")
    other = [replace(TABLES[0], num_embeddings=101, embedding_dim=16), *TABLES[2:]]
    with pytest.raises(PlanError) as error:
        plan.check(other, world_size=4, device="cuda")
    text = str(error.value)
    assert "device: plan cpu, run cuda" in text
    assert "ranks: plan 2, run 4" in text
    assert "table t0: num_embeddings: plan 100, model 101" in text
    assert "table t0: embedding_dim: plan 32, model 16" in text
    assert "table t1: in the plan, not in the model" in text
    with pytest.raises(PlanError, match="made for cpu"):
        plan.sharding_plan("cuda")


def test_module_paths_of_another_wrapper_replace_the_planned_ones(plan: Plan) -> None:
    paths = {table.name: f"model.{table.module}" for table in plan.tables}
    assert set(plan.sharding_plan("cpu", paths).plan) == {"model.sparse.bags", "model.sparse.rows"}


def test_the_summary_is_what_the_plan_verb_prints(plan: Plan) -> None:
    summary = plan.summary()
    assert list(json.loads(json.dumps(summary))) == [
        "verdict",
        "cluster",
        "ranks",
        "table_groups",
        "hbm_max_gib",
        "host_memory_max_gib",
        "ssd_max_gib",
        "step_ms",
        "step_parts",
        "samples_per_second",
        "imbalance",
        "nvlink_max_mib",
        "nic_max_mib",
        "epoch_hours",
        "price_per_hour",
        "price_per_epoch",
        "estimate_basis",
        "seconds",
        "warnings",
        "plan",
    ]
    assert (summary["verdict"], summary["ranks"], summary["hbm_max_gib"]) == ("fits", 2, 0.0)
    assert summary["samples_per_second"] == pytest.approx(2 * 512 / summary["step_ms"] * 1000, rel=1e-3)
    assert plan_of(tables_of(2), "1x2xh100").summary()["hbm_max_gib"] > 0


def test_small_tables_are_not_rounded_to_nothing() -> None:
    tables = [TableSpec("tiny", 20, 32, ("tiny",), sharding_types=("table_wise",))]
    small = plan_of(tables, "1x1xcpu", batch_size_per_rank=1)
    used = small.memory[0].memory_used
    assert small.summary()["host_memory_max_gib"] == pytest.approx(used / 2**30, rel=1e-3)
    weights = next(line for line in plan_report(small).splitlines() if line.startswith("tiny "))
    assert "2.5 KiB" in weights  # 20 x 32 x 4 bytes
    assert "80 B" in weights  # one fp32 word a row for row-wise Adagrad


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1,023 B"), (1536, "1.5 KiB"), (5 * 2**20, "5 MiB"), (2000 * 2**30, "2,000 GiB")],
)
def test_sizes_have_the_unit_that_suits_them(size: int, text: str) -> None:
    assert byte_size(size) == text


def test_the_report_shows_every_table_every_rank_and_the_label(plan: Plan) -> None:
    text = plan_report(plan)
    for table in plan.tables:
        assert any(
            line.startswith(f"{table.name} ") and table.sharding_type in line for line in text.splitlines()
        )
    assert "fits" in text
    assert "uncalibrated" in text
    assert plan.cluster.rank_hardware.source in text
    assert max(len(line) for line in text.splitlines()) < 160


def test_the_report_of_a_large_plan_is_cut_and_says_so() -> None:
    text = plan_report(plan_of(tables_of(30), "4x8xh100"), max_tables=10)
    assert "and 20 smaller tables with" in text
    assert "the 16 fullest of 32 ranks" in text


@pytest.mark.parametrize(
    ("ranks", "text"), [((), "none"), ((3,), "3"), ((0, 1, 2, 7, 9, 10), "0..2, 7, 9..10")]
)
def test_ranks_are_written_briefly(ranks: tuple[int, ...], text: str) -> None:
    assert rank_range(ranks) == text
