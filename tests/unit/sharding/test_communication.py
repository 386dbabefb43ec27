from __future__ import annotations

from pathlib import Path

import pytest

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
