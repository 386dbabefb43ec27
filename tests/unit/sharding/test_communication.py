from __future__ import annotations

from pathlib import Path

import pytest
from torchrec.modules.embedding_configs import DataType

from sharding.communication import FULL_PRECISION, TableCommunication
from sharding.errors import PlanError
from sharding.plan import Plan
from sharding.report import plan_report
from sharding.tables import TableSpec
from tests.unit.sharding.planning import plan_of, tables_of

BF16 = TableCommunication("bf16", "bf16")
CLUSTER = "2x2xh100"


@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "column_wise", "table_row_wise", "grid_shard"])
def test_half_the_bits_send_half_the_bytes_and_take_half_the_time(kind: str) -> None:
    plans = [
        # Ids would add the same to both.
        plan_of(tables_of(1, sharding_types=(kind,), pooling_factors=(1e-9,)), CLUSTER, communication=sent)
        for sent in (FULL_PRECISION, BF16)
    ]
    full, half = ([rank.step for rank in plan.memory] for plan in plans)
    for one, other in zip(full, half, strict=True):
        assert other.traffic.nvlink == pytest.approx(one.traffic.nvlink / 2, rel=1e-3)
        assert other.traffic.nic == pytest.approx(one.traffic.nic / 2, rel=1e-3)
        # TorchRec's own estimate.
        assert other.exchange_ms <= one.exchange_ms
    busiest = max(range(4), key=lambda rank: full[rank].exchange_ms)
    assert half[busiest].exchange_ms == pytest.approx(full[busiest].exchange_ms / 2, rel=0.3)


def test_int8_sends_a_scale_and_an_offset_beside_32_numbers_and_sums_in_fp16() -> None:
    int8 = TableCommunication("int8")
    assert int8.forward_bytes(summed=False) == (32 + 2 * 4) / 32
    assert int8.forward_bytes(summed=True) == 2
    assert int8.backward_bytes == 4


@pytest.mark.parametrize(
    ("settings", "key", "allowed"),
    [
        ({"forward": "int4"}, "forward", ("fp32", "fp16", "bf16", "int8")),
        ({"backward": "int8"}, "backward", ("fp32", "fp16", "bf16")),
    ],
)
def test_a_precision_that_nothing_packs_is_refused(
    settings: dict[str, str], key: str, allowed: tuple[str, ...]
) -> None:
    with pytest.raises(PlanError) as error:
        TableCommunication(**settings)
    assert error.value.where == f"train.table_communication.{key}"
    assert error.value.allowed == allowed


@pytest.mark.parametrize(
    ("table", "batch", "got"),
    [
        (TableSpec("t", 100, 16, ("f",), sharding_types=("table_wise",)), 5, "5 x 16 columns"),
        (TableSpec("t", 100, 16, ("f",), pooling="none"), 512, "1 x 16 columns"),
        (
            TableSpec("t", 100, 32, ("f",), pooling="none", sharding_types=("column_wise",)),
            512,
            "1 x 16 columns",
        ),
    ],
)
def test_vectors_that_are_no_whole_groups_of_int8_are_refused(table: TableSpec, batch: int, got: str) -> None:
    with pytest.raises(PlanError, match="int8 packs 32 numbers") as error:
        plan_of([table], batch_size_per_rank=batch, communication=TableCommunication("int8"))
    assert "table t" in str(error.value.where)
    assert error.value.got == got
    plan_of([table], batch_size_per_rank=batch, communication=TableCommunication("fp16"))


def test_sums_and_copies_need_no_whole_groups() -> None:
    tables = [
        TableSpec(kind, 100, 12, (kind,), sharding_types=(kind,)) for kind in ("row_wise", "data_parallel")
    ]
    plan_of(tables, batch_size_per_rank=5, communication=TableCommunication("int8"))


def test_a_plan_keeps_the_precision_and_refuses_another(tmp_path: Path) -> None:
    plan = plan_of(tables_of(2), communication=BF16)
    loaded = Plan.load(plan.save(tmp_path / "plan.json"))
    assert loaded.communication == BF16
    loaded.check_communication(BF16, 512)
    with pytest.raises(PlanError) as error:
        loaded.check_communication(FULL_PRECISION, 512)
    assert error.value.got == "fp32 forward, fp32 backward"
    assert error.value.allowed == "bf16 forward, bf16 backward"
    other = plan_of(tables_of(2))
    assert plan.diff(other)[0] == f"table_communication: {BF16} -> {FULL_PRECISION}"
    assert "embeddings travel in bf16 forward, bf16 backward" in plan_report(plan)
    assert "travel" not in plan_report(other)


def test_a_batch_of_a_run_that_int8_cannot_pack_is_refused() -> None:
    int8 = TableCommunication("int8")
    plan = plan_of([TableSpec("t", 100, 16, ("f",), sharding_types=("table_wise",))], communication=int8)
    plan.check_communication(int8, 512)
    with pytest.raises(PlanError, match="int8 packs 32 numbers"):
        plan.check_communication(int8, 7)


FP16_OUTPUT = TableCommunication(output_dtype="fp16")
ONE_RANK_LOOKS_UP = {"sharding_types": ("table_wise",), "ranks": (2,)}


@pytest.mark.parametrize("kernel", ["fused", "fused_uvm", "fused_uvm_caching"])
def test_fp16_output_halves_buffers_and_bytes_of_a_plan(kernel: str) -> None:
    tables = tables_of(2, compute_kernels=(kernel,), **ONE_RANK_LOOKS_UP)
    full, half = (plan_of(tables, CLUSTER, communication=sent) for sent in (FULL_PRECISION, FP16_OUTPUT))
    one, other = full.memory[2], half.memory[2]
    # 512 rows x 4 ranks x 2 tables x 32 columns.
    assert one.output_buffers == pytest.approx(512 * 4 * 2 * 32 * 4, rel=0.01)
    assert other.output_buffers == pytest.approx(one.output_buffers / 2, rel=0.01)
    assert other.memory_used == one.memory_used - one.output_buffers + other.output_buffers
    sent, less = one.step.traffic, other.step.traffic
    # 512 rows of each of the two ranks on the other node.
    assert sent.nic - less.nic == pytest.approx(2 * 512 * 2 * 32 * 2, rel=0.01)
    assert sum(rank.step.traffic.nic for rank in half.memory) < sum(r.step.traffic.nic for r in full.memory)
    settings = half.sharding_plan("cuda").plan["sparse.bags"]["t0"]
    assert settings.output_dtype == DataType.FP16
    assert full.sharding_plan("cuda").plan["sparse.bags"]["t0"].output_dtype is None


def test_a_plan_keeps_the_output_and_refuses_another(tmp_path: Path) -> None:
    plan = plan_of(tables_of(2), communication=FP16_OUTPUT)
    loaded = Plan.load(plan.save(tmp_path / "plan.json"))
    loaded.check_communication(FP16_OUTPUT, 512)
    with pytest.raises(PlanError) as error:
        loaded.check_communication(FULL_PRECISION, 512)
    assert error.value.where == "train.table_output_dtype"
    assert error.value.allowed == "fp16, as the kernels look them up"
    assert "embeddings travel in fp16, as the kernels look them up" in plan_report(plan)


def test_an_output_that_no_kernel_has_is_refused() -> None:
    with pytest.raises(PlanError, match="cannot travel") as error:
        TableCommunication(output_dtype="int8")
    assert error.value.where == "train.table_output_dtype"
    with pytest.raises(PlanError, match="no codec packs them") as error:
        TableCommunication("bf16", output_dtype="fp16")
    assert error.value.fixes[0] == "leave train.table_communication out"
    bf16 = TableCommunication(output_dtype="bf16")
    with pytest.raises(PlanError, match="CPU kernels look up no such vectors") as error:
        plan_of(tables_of(1), "1x2xcpu", communication=bf16)
    assert error.value.got == "bf16"
    plan_of(tables_of(1), CLUSTER, communication=bf16)
