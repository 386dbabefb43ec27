from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sharding.errors import PlanError
from sharding.hardware import find_hardware
from sharding.planner import make_plan
from sharding.sharders import COLUMN_SPLITS, SHARDING_TYPES
from sharding.tables import TableSpec
from sharding.topology import Cluster
from sharding.units import GIB
from sharding.verdicts import CannotFitError, NoPlanError, NoPlanFoundError
from tests.unit.sharding.planning import model_of, plan_of, tables_of

REPOSITORY = Path(__file__).parents[3]


def small_cpu(gib: float, ranks: int = 2) -> Cluster:
    return Cluster(ranks_per_node=ranks, hardware=replace(find_hardware("cpu"), host_memory_gib=gib))


@pytest.mark.parametrize("sharding_type", SHARDING_TYPES)
def test_a_table_gets_the_one_type_it_allows(sharding_type: str) -> None:
    tables = tables_of(3, sharding_types=(sharding_type,))
    plan = plan_of(tables, "2x2xcpu", embedding_optimizer="adagrad")
    assert {table.sharding_type for table in plan.tables} == {sharding_type}
    assert plan.verdict == "fits"


def test_every_rank_gets_columns_of_a_column_wise_table() -> None:
    (table,) = plan_of(tables_of(1, sharding_types=("column_wise",)), "1x4xcpu").tables
    assert table.ranks == (0, 1, 2, 3)
    assert {shard.columns for shard in table.shards} == {8}


def test_min_partition_sets_the_width_of_column_shards() -> None:
    (table,) = plan_of(tables_of(1, sharding_types=("column_wise",), min_partition=16), "1x4xcpu").tables
    assert [shard.columns for shard in table.shards] == [16, 16]


def test_a_gpu_cluster_is_planned_without_cuda_and_without_a_process_group() -> None:
    assert not torch.distributed.is_initialized()
    plan = plan_of(tables_of(12), "2x8xh100", batch_size_per_rank=4096)
    assert plan.cluster.device == "cuda"
    assert {shard.rank for table in plan.tables for shard in table.shards} <= set(range(16))
    spec = plan.sharding_plan("cuda").plan["sparse.bags"]
    placements = {
        str(shard.placement)
        for table in spec.values()
        if table.sharding_spec is not None
        for shard in table.sharding_spec.shards
    }
    assert placements
    assert placements <= {f"rank:{rank}/cuda:{rank % 8}" for rank in range(16)}


def test_the_plan_names_paths_rows_and_both_kinds_of_collection() -> None:
    tables = [
        TableSpec("user", 40, 16, ("user",)),
        TableSpec("history", 60, 16, ("history",), pooling="none", pooling_factors=(20.0,)),
    ]
    plan = plan_of(tables)
    assert [(t.name, t.module, t.num_embeddings, t.pooling) for t in plan.tables] == [
        ("user", "sparse.bags", 40, "sum"),
        ("history", "sparse.rows", 60, "none"),
    ]


def test_longer_lists_of_ids_raise_the_estimate_and_the_buffers() -> None:
    short, long = (
        plan_of([TableSpec("t", 1000, 32, ("f",), pooling_factors=(length,))], "1x1xcpu")
        for length in (1.0, 50.0)
    )
    assert long.estimate["step_ms"] > 5 * short.estimate["step_ms"]
    assert long.memory[0].buffers > short.memory[0].buffers


@pytest.mark.parametrize(
    ("optimizer", "words_each", "words_row"),
    [
        ("sgd", 0, 0),
        ("rowwise_adagrad", 0, 1),
        ("adagrad", 1, 0),
        ("adam", 2, 0),
        ("adamw", 2, 0),
        ("partial_rowwise_adam", 1, 1),
        ("lamb", 2, 0),
    ],
)
@pytest.mark.parametrize("data_type", ["fp32", "fp16"])
def test_optimizer_state_is_counted_in_full_precision(
    optimizer: str, words_each: int, words_row: int, data_type: str
) -> None:
    rows, dim = 1_000_000, 32
    tables = [TableSpec("t", rows, dim, ("f",), data_type=data_type, sharding_types=("table_wise",))]
    plan = plan_of(tables, "1x2xh100", embedding_optimizer=optimizer, batch_size_per_rank=8)
    expected = 4 * rows * (dim * words_each + words_row)
    assert plan.tables[0].optimizer_bytes == expected
    assert plan.tables[0].weight_bytes == rows * dim * (4 if data_type == "fp32" else 2)
    (home,) = plan.tables[0].ranks
    used = plan.memory[home]
    assert used.optimizer == expected
    # Beside weights and state a batch of 8 rows needs little: nothing was counted twice.
    assert 0 <= used.buffers < 100_000


def test_memory_of_a_rank_adds_up() -> None:
    tables = [*tables_of(6), TableSpec("small", 50, 32, ("s",), sharding_types=("data_parallel",))]
    for rank in plan_of(tables, "1x2xcpu").memory:
        parts = rank.weights + rank.optimizer + rank.gradients + rank.buffers + rank.dense
        assert parts == rank.memory_used
        assert rank.gradients == 50 * 32 * 4
        assert rank.dense == 4 * 4 * 9


def test_tables_of_one_size_are_spread_evenly() -> None:
    tables = [TableSpec(f"t{i}", 10_000, 32, (f"f{i}",)) for i in range(8)]
    plan = plan_of(tables, "1x4xcpu")
    assert plan.estimate["imbalance"] == pytest.approx(1.0, abs=0.01)


def test_row_moments_keep_columns_whole_unless_the_config_splits_them() -> None:
    tables = [TableSpec(f"t{i}", 10_000, 512, (f"f{i}",)) for i in range(3)]
    assert not {t.sharding_type for t in plan_of(tables, "1x4xh100").tables} & COLUMN_SPLITS
    asked = [replace(table, sharding_types=("column_wise",)) for table in tables]
    plan = plan_of(asked, "1x4xh100")
    assert "rowwise_adagrad" in plan.warnings[0]
    assert "t0" in plan.warnings[0]
    assert plan_of(asked, "1x4xh100", embedding_optimizer="adagrad").warnings == ()


def test_uvm_tables_leave_hbm_and_are_counted_in_host_memory() -> None:
    big = TableSpec("big", 400_000_000, 128, ("f",), compute_kernels=("fused_uvm_caching",))
    plan = plan_of([replace(big, cache_load_factor=0.1)], "1x2xh100")
    assert plan.tables[0].compute_kernel == "fused_uvm_caching"
    assert plan.tables[0].cache_load_factor == 0.1
    assert plan.estimate["hbm_max_gib"] < 30
    assert sum(rank.host_used for rank in plan.memory) > 0.9 * plan.tables[0].weight_bytes
    assert plan.sharding_plan("cuda").plan["sparse.bags"]["big"].cache_params.load_factor == 0.1
    with pytest.raises(CannotFitError):
        plan_of([replace(big, compute_kernels=None)], "1x2xh100")


def test_too_many_bytes_are_proved_and_the_fixes_bear_numbers() -> None:
    tables = [
        TableSpec("user_id", 2_000_000_000, 128, ("u",)),
        TableSpec("item_id", 100_000_000, 64, ("i",)),
    ]
    with pytest.raises(CannotFitError) as error:
        plan_of(tables, "1x8xh100")
    text = str(error.value)
    assert error.value.verdict == "cannot_fit"
    assert "2 tables do not fit 8 ranks x 80 GiB (need 985 GiB, 544 GiB left after the 15% reserve)" in text
    assert "user_id 2,000,000,000 x 128 fp32" in text
    assert "1) --cluster 2x8xh100 (16 ranks, 1,088 GiB left)" in text
    assert "tables.user_id.embedding_dim: 64" in text
    assert "fused_uvm_caching" in text
    assert "tables.*.data_type: fp16 (saves 489 GiB)" in text
    # What the message promises holds.
    assert plan_of(tables, "2x8xh100").verdict == "fits"


def test_a_table_that_no_cluster_holds_is_to_get_fewer_rows() -> None:
    tables = [TableSpec("user_id", 10**16, 128, ("u",)), TableSpec("item_id", 100_000_000, 64, ("i",))]
    with pytest.raises(CannotFitError) as error:
        plan_of(tables, "1x8xh100")
    first, *others = error.value.fixes
    assert first.startswith("fewer rows in table user_id, 1,000,000,000 or less on 1x8xh100: hash its ids")
    assert not any("--cluster" in fix for fix in error.value.fixes)
    assert any("embedding_dim: 64" in fix for fix in others)
    # What the message promises holds.
    assert plan_of([replace(tables[0], num_embeddings=10**9), tables[1]], "1x8xh100").verdict == "fits"
    many = [replace(tables[0], name=f"t{i}", features=(f"f{i}",)) for i in range(3)]
    with pytest.raises(CannotFitError) as error:
        plan_of(many, "1x8xh100")
    assert error.value.fixes[0].startswith("fewer rows in the largest tables")
    # 85 % of 2,048 GiB hold 3.65e9 rows of 512 bytes.
    on_host = replace(tables[0], compute_kernels=("fused_uvm",))
    with pytest.raises(CannotFitError) as error:
        plan_of([on_host], "1x8xh100", embedding_optimizer="sgd")
    assert error.value.fixes[0].startswith("fewer rows in table user_id, 3,600,000,000 or less")


def test_a_table_that_may_not_be_split_enough_cannot_fit() -> None:
    tables = [TableSpec("user_id", 200_000_000, 128, ("u",), sharding_types=("table_wise",))]
    with pytest.raises(CannotFitError) as error:
        plan_of(tables, "1x8xh100")
    assert error.value.where == "tables.user_id.sharding_types"
    assert "table_wise" in str(error.value.got)
    # More nodes would not split the table.
    assert not any("--cluster" in fix for fix in error.value.fixes)
    (types,) = (fix for fix in error.value.fixes if fix.startswith("tables.user_id.sharding_types: ["))
    assert error.value.allowed == ["row_wise"]
    assert "[row_wise] (shards of 12 GiB or less)" in types
    assert plan_of([replace(tables[0], sharding_types=("row_wise",))], "1x8xh100").verdict == "fits"


def test_bytes_that_fit_without_a_placement_are_no_plan_found() -> None:
    # Three tables of 0.4 GiB, none of which may be split, on two ranks with 0.68 GiB left each.
    tables = [TableSpec(f"t{i}", 3_300_000, 32, (f"f{i}",), sharding_types=("table_wise",)) for i in range(3)]
    with pytest.raises(NoPlanFoundError) as error:
        plan_of(tables, small_cpu(0.8), batch_size_per_rank=8)
    text = str(error.value)
    assert error.value.verdict == "no_plan_found"
    assert "although their bytes fit" in text
    assert "allow more tables.*.sharding_types (constrained: t0, t1, t2)" in text
    assert "object at 0x" not in text
    assert "Planner evaluated" not in text
    wider = [replace(table, sharding_types=None) for table in tables]
    assert plan_of(wider, small_cpu(0.8), batch_size_per_rank=8).verdict == "fits"


def test_an_error_without_a_plan_tells_its_verdict_to_machines_and_survives_pickling() -> None:
    import pickle

    with pytest.raises(NoPlanError) as error:
        plan_of([TableSpec("t", 10**9, 64, ("f",))], small_cpu(1))
    again = pickle.loads(pickle.dumps(error.value))
    for raised in (error.value, again):
        assert raised.as_json()["verdict"] == "cannot_fit"
        assert json.dumps(raised.as_json())
        assert raised.exit_code == 2


def test_a_table_for_a_very_large_cluster_is_refused_at_once() -> None:
    asked: list[int] = []
    tables = [TableSpec("t", 4 * 10**12, 128, ("f",))]
    with pytest.raises(
        CannotFitError, match=r"table t does not fit 8 ranks x 80 GiB.*\n.*4,000,000,000,000"
    ) as error:
        make_plan(
            model_of(tables),
            tables,
            Cluster.parse("1x8xh100"),
            batch_size_per_rank=8,
            embedding_optimizer="sgd",
            takes=lambda ranks: bool(asked.append(ranks)),
        )
    assert 0 < len(asked) < 10_000
    assert error.value.fixes[0].startswith("--cluster 3507x8xh100 (28056 ranks")


def test_dense_layers_take_their_share_of_memory() -> None:
    tables = tables_of(1)
    model = model_of(tables)
    model["huge"] = torch.nn.Linear(20_000, 20_000, device="meta")
    with pytest.raises(CannotFitError, match="dense layers alone do not fit one rank"):
        make_plan(model, tables, small_cpu(5), batch_size_per_rank=8, embedding_optimizer="sgd")
    plan = make_plan(model, tables, small_cpu(16), batch_size_per_rank=8, embedding_optimizer="sgd")
    assert plan.memory[0].dense > 4 * 4 * 20_000**2
    assert plan.memory[0].memory_used < 0.85 * 16 * GIB


def test_a_model_with_other_tables_is_refused_with_each_difference() -> None:
    tables = tables_of(3)
    other = [replace(tables[0], num_embeddings=7), tables[1], TableSpec("new", 5, 32, ("n",))]
    with pytest.raises(PlanError) as error:
        make_plan(model_of(tables), other, Cluster(), batch_size_per_rank=8, embedding_optimizer="adagrad")
    text = str(error.value)
    assert "table t0: num_embeddings: model 100, table list 7" in text
    assert "table t2: in the model, not in the table list" in text
    assert "table new: in the table list, not in the model" in text


def test_a_model_without_tables_is_refused() -> None:
    with pytest.raises(PlanError, match="no embedding tables"):
        make_plan(torch.nn.Linear(2, 2), [], Cluster(), batch_size_per_rank=8, embedding_optimizer="adagrad")


def test_planning_leaves_loggers_warnings_and_the_model_as_they_were(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    tables = tables_of(3, sharding_types=("data_parallel", "row_wise"))
    model = model_of(tables)
    before = (logging.getLogger("torchrec").level, list(logging.getLogger().handlers))
    with caplog.at_level(logging.WARNING):
        make_plan(model, tables, Cluster(), batch_size_per_rank=8, embedding_optimizer="adagrad")
    assert not caplog.records
    assert not recwarn.list
    assert (logging.getLogger("torchrec").level, list(logging.getLogger().handlers)) == before
    assert all(parameter.device.type == "meta" for parameter in model["sparse"].parameters())


def test_many_tables_on_many_gpus_are_planned_with_a_type_for_each_size() -> None:
    sizes = [10**5] * 300 + [100_000_000] * 4 + [4_000_000_000]
    tables = [TableSpec(f"t{i}", rows, 64, (f"f{i}",)) for i, rows in enumerate(sizes)]
    plan = plan_of(tables, "16x8xh100", batch_size_per_rank=1024)
    types = {table.name: table.sharding_type for table in plan.tables}
    # Only the table that is larger than a node pays for an exchange between all ranks.
    assert [name for name, kind in types.items() if kind == "row_wise"] == ["t304"]
    assert max(rank.memory_used for rank in plan.memory) <= 0.85 * 80 * GIB
    assert min(rank.relative_ms for rank in plan.memory) > 0
    assert plan.estimate["imbalance"] < 1.2


def test_tables_that_leave_little_memory_are_placed_within_it() -> None:
    """Tables of 1 to 8 GiB that take 91 % of the ranks' memory."""
    tables = [TableSpec(f"t{i}", 2_000_000 * (1 + i % 8), 128, (f"f{i}",)) for i in range(93)]
    size = sum(table.weight_bytes + 4 * table.num_embeddings for table in tables)
    assert 0.9 < size / (8 * 54.4 * GIB) < 1
    small = Cluster(gpus_per_node=8, gpu="h100", hardware=replace(find_hardware("h100"), hbm_gib=64))
    plan = plan_of(tables, small, batch_size_per_rank=256)
    assert max(rank.memory_used for rank in plan.memory) <= 0.85 * 64 * GIB


def test_a_type_that_the_config_names_holds_among_many_tables() -> None:
    tables = [TableSpec(f"t{i}", 102_400, 64, (f"f{i}",)) for i in range(200)]
    tables[7] = replace(tables[7], sharding_types=("row_wise",))
    tables[8] = replace(tables[8], sharding_types=("table_row_wise",))
    planned = plan_of(tables, "128x8xh100", batch_size_per_rank=256).tables
    assert (planned[7].sharding_type, planned[8].sharding_type) == ("row_wise", "table_row_wise")
    assert len(planned[7].ranks) == 1024
    assert len({rank // 8 for rank in planned[8].ranks}) == 1


def test_two_thousand_tables_have_a_plan() -> None:
    tables = [TableSpec(f"t{i}", 100 * (1 + i), 16, (f"f{i}",)) for i in range(2000)]
    plan = plan_of(tables, "8x8xh100", batch_size_per_rank=256)
    assert plan.verdict == "fits"
    assert plan.estimate["imbalance"] < 1.1
    assert min(rank.relative_ms for rank in plan.memory) > 0


def test_the_same_input_gives_the_same_plan_in_another_process(tmp_path: Path) -> None:
    script = (
        "from tests.unit.sharding.planning import plan_of, tables_of\n"
        "plan = plan_of(tables_of(9), '2x2xcpu', embedding_optimizer='adagrad')\n"
        f"plan.save({str(tmp_path / 'b.json')!r})\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, env=environment)
    plan_of(tables_of(9), "2x2xcpu", embedding_optimizer="adagrad").save(tmp_path / "a.json")
    first, second = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    first.pop("seconds")
    second.pop("seconds")
    assert first == second


@pytest.mark.parametrize("ranks", [2, 3, 4, 8, 16])
def test_on_cpu_no_rank_gets_an_empty_part_of_a_table(ranks: int) -> None:
    tables = [TableSpec(f"t{rows}", rows, 32, (f"f{rows}",), pooling="mean") for rows in (1, 2, 3, 5, 20, 99)]
    for table in plan_of(tables, f"1x{ranks}xcpu").tables:
        assert all(shard.rows for shard in table.shards), table


@pytest.mark.parametrize("kind", ["row_wise", "table_row_wise", "grid_shard"])
def test_types_that_would_leave_a_cpu_rank_without_rows_are_refused(kind: str) -> None:
    tables = [*tables_of(2), TableSpec("tiny", 3, 32, ("f",), sharding_types=(kind,))]
    with pytest.raises(PlanError, match=r"3 rows on 4 ranks") as error:
        plan_of(tables, "1x4xcpu", embedding_optimizer="adagrad")
    assert error.value.where == "tables.tiny.sharding_types"
    assert "tables.tiny.sharding_types=[" in error.value.fixes[0]
    either = replace(tables[2], sharding_types=(kind, "table_wise"))
    plan = plan_of([*tables[:2], either], "1x4xcpu", embedding_optimizer="adagrad")
    assert plan.tables[2].sharding_type == "table_wise"
    # FBGEMM's GPU kernels take empty tables.
    assert plan_of(tables, "1x4xh100", embedding_optimizer="adagrad").verdict == "fits"


@pytest.mark.parametrize("cluster", ["1x1xcpu", "1x2xcpu", "1x2xh100", "4x8xh100"])
def test_the_dense_kernel_alone_means_data_parallel(cluster: str) -> None:
    tables = [*tables_of(80), TableSpec("big", 10_000_000, 32, ("f",), compute_kernels=("dense",))]
    planned = plan_of(tables, cluster).tables[-1]
    assert (planned.sharding_type, planned.compute_kernel) == ("data_parallel", "dense")
