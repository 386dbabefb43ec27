"""Tables on SSD: bytes worked out by hand from FBGEMM's own sizes, verdicts, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sharding.errors import PlanError
from sharding.hardware import HARDWARE
from sharding.plan import Plan
from sharding.report import plan_report
from sharding.tables import TableSpec
from sharding.topology import Cluster
from sharding.units import GIB
from sharding.verdicts import CannotFitError
from tests.unit.sharding.planning import plan_of, tables_of
from trainer.reporting.plan_page import make_plan_page

ROWS, DIM = 320_000, 64
TABLE = TableSpec("t", ROWS, DIM, ("f",), compute_kernels=("key_value",), cache_load_factor=0.1)
# 6 x 10^9 rows of 512 bytes: 2,861 GiB, more than the 544 GiB of HBM and the 1,741 of host memory of 8 H100.
HUGE = TableSpec("huge", 6_000_000_000, 128, ("f",))


@pytest.mark.parametrize(
    ("optimizer", "words_each", "words_row"),
    [("rowwise_adagrad", 0, 1), ("partial_rowwise_adam", 1, 1), ("adam", 2, 0)],
)
@pytest.mark.parametrize(("data_type", "width"), [("fp32", 4), ("fp16", 2)])
def test_weights_lie_on_ssd_state_and_cache_in_hbm_leaving_rows_in_host_memory(
    optimizer: str, words_each: int, words_row: int, data_type: str, width: int
) -> None:
    plan = plan_of(
        [replace(TABLE, data_type=data_type)],
        "1x1xh100",
        embedding_optimizer=optimizer,
        batch_size_per_rank=8,
    )
    (rank,) = plan.memory
    assert plan.tables[0].compute_kernel == "key_value"
    assert rank.ssd_weights == ROWS * DIM * width
    assert rank.weights == rank.host_weights == rank.host_optimizer == 0
    assert rank.optimizer == 4 * ROWS * (DIM * words_each + words_row)
    # A tenth of the rows is 1,000 sets of 32 slots; a slot has a row and 16 bytes in HBM.
    assert rank.cache == 32_000 * (DIM * width + 16)
    # Two buffers for as many rows, each with 8 + 4 bytes.
    assert rank.host_buffers == rank.host_used == 2 * 32_000 * (DIM * width + 12)
    assert rank.memory_used == rank.optimizer + rank.cache + rank.buffers + rank.dense + rank.activations
    assert rank.buffers < 100_000


def test_shards_on_ssd_are_counted_where_they_lie() -> None:
    (wise,) = plan_of([replace(TABLE, sharding_types=("row_wise",))], "1x4xh100").tables
    plan = plan_of([replace(TABLE, sharding_types=("row_wise",))], "1x4xh100")
    assert len(wise.ranks) == 4
    assert [rank.ssd_weights for rank in plan.memory] == [ROWS // 4 * DIM * 4] * 4


def test_a_table_larger_than_all_memory_fits_on_ssd_and_the_verdict_without_it_says_so() -> None:
    with pytest.raises(CannotFitError) as error:
        plan_of([HUGE], "1x8xh100")
    text = str(error.value)
    assert "huge 6,000,000,000 x 128 fp32 = 2,883 GiB with rowwise_adagrad, too large by itself" in text
    (fix,) = [fix for fix in error.value.fixes if "key_value" in fix]
    assert "tables.huge: {compute_kernels: [key_value], cache_load_factor: 0.09}" in fix
    assert "needs 2,861 GiB of SSD" in fix
    assert "fused_uvm_caching" not in text
    # What the message promises holds.
    on_ssd = replace(HUGE, compute_kernels=("key_value",), cache_load_factor=0.09)
    plan = plan_of([on_ssd], "1x8xh100", batch_size_per_rank=64)
    assert plan.estimate["ssd_max_gib"] == pytest.approx(2861 / 8, rel=0.01)
    assert any("can be planned, but not trained" in text for text in plan.warnings)


def test_a_table_that_host_memory_holds_is_not_sent_to_ssd() -> None:
    with pytest.raises(CannotFitError) as error:
        plan_of([replace(HUGE, num_embeddings=3_000_000_000)], "1x8xh100")
    assert "fused_uvm_caching] (needs 1,431 GiB of host memory)" in str(error.value)
    assert "key_value" not in str(error.value)


@pytest.mark.parametrize(
    ("kernels", "rows", "words"),
    [
        (("key_value",), 60_000_000_000, "table huge does not fit the SSD of 8 ranks (need 28,610 GiB, 24,3"),
        (("fused_uvm",), 6_000_000_000, "table huge does not fit the host memory of 8 ranks (need 2,861 GiB"),
        (("fused", "fused_uvm"), 6_000_000_000, "does not fit the HBM and host memory of 8 ranks"),
    ],
)
def test_each_kind_of_memory_has_its_own_proof(kernels: tuple[str, ...], rows: int, words: str) -> None:
    with pytest.raises(CannotFitError) as error:
        plan_of([replace(HUGE, num_embeddings=rows, compute_kernels=kernels)], "1x8xh100")
    assert words in str(error.value)
    assert error.value.fixes[0].startswith("--cluster ")


def test_optimizer_state_of_tables_on_ssd_must_fit_hbm() -> None:
    table = replace(HUGE, compute_kernels=("key_value",))
    with pytest.raises(CannotFitError, match="does not fit 8 ranks x 80 GiB"):
        plan_of([table], "1x8xh100", embedding_optimizer="adam")


def test_tables_that_left_hbm_are_not_named_where_others_do_not_fit() -> None:
    on_ssd = replace(HUGE, compute_kernels=("key_value",), cache_load_factor=0.01)
    others = [TableSpec("other", 2_000_000_000, 128, ("o",)), on_ssd]
    with pytest.raises(CannotFitError) as error:
        plan_of(others, "1x8xh100")
    # The table on SSD keeps 22 GiB of moments in HBM.
    assert "need 983 GiB" in str(error.value)
    assert "largest: other " in str(error.value)
    assert "huge" not in str(error.value)


def test_two_tables_on_ssd_are_dealt_out_by_the_ssd_that_is_left() -> None:
    small = replace(Cluster.parse("1x2xh100"), hardware=replace(HARDWARE["h100"], ssd_gib=10))
    rows = int(0.85 * 6 * GIB / 256)
    tables = [
        replace(TABLE, name=f"t{i}", num_embeddings=rows, features=(f"f{i}",), sharding_types=("table_wise",))
        for i in range(2)
    ]
    assert sorted(t.ranks for t in plan_of(tables, small).tables) == [(0,), (1,)]
    # Three times 5.1 GiB are less than twice 8.5, but no two of them share a rank.
    with pytest.raises(PlanError, match="no plan found for 3 tables"):
        plan_of([*tables, replace(tables[0], name="t2", features=("f2",))], small)


def test_reports_show_ssd_where_it_is_used_alone(tmp_path: Path) -> None:
    used, unused = plan_of([TABLE], "1x2xh100"), plan_of(tables_of(2), "1x2xh100")
    assert Plan.load(used.save(tmp_path / "plan.json")) == used
    assert " ssd " in plan_report(used)
    assert " ssd " not in plan_report(unused)
    assert "SSD" in str(make_plan_page(used, "used").ranks)
    assert "SSD" not in str(make_plan_page(unused, "unused").ranks)
    assert unused.estimate["ssd_max_gib"] == 0


@pytest.mark.parametrize(
    ("cluster", "optimizer", "settings", "words"),
    [
        ("1x2xcpu", "rowwise_adagrad", {}, "not offered for pooled tables on cpu"),
        ("1x2xh100", "adagrad", {}, "key_value has no such optimizer"),
        ("1x2xh100", "adam", {"data_type": "bf16"}, "key_value has no such data type"),
    ],
)
def test_what_the_kernel_does_not_carry_is_refused(
    cluster: str, optimizer: str, settings: dict[str, object], words: str
) -> None:
    with pytest.raises(PlanError, match=words) as error:
        plan_of([replace(TABLE, **settings)], cluster, embedding_optimizer=optimizer)  # type: ignore[arg-type]
    assert error.value.where.startswith("tables.t.")
    assert error.value.allowed


def test_ranks_without_ssd_are_refused() -> None:
    bare = replace(Cluster.parse("1x2xh100"), hardware=replace(HARDWARE["h100"], ssd_gib=0))
    with pytest.raises(PlanError, match="no SSD for key_value"):
        plan_of([TABLE], bare)


def test_a_plan_with_tables_on_ssd_is_not_trained() -> None:
    with pytest.raises(PlanError, match="can be planned, but not trained") as error:
        plan_of([TABLE], "1x2xh100").check_trainable()
    assert error.value.where == "tables.t.compute_kernels"
    assert "published builds of FBGEMM have no kernels" in str(error.value)
    plan_of([replace(TABLE, compute_kernels=None)], "1x2xh100").check_trainable()


@pytest.mark.parametrize("name", ["EmbeddingRocksDBWrapper", "KVTensorWrapper"])
def test_the_installed_fbgemm_has_no_ssd_kernel(name: str) -> None:
    """Where this fails, tables on SSD could be trained: write it, and refuse them no more."""
    import fbgemm_gpu  # noqa: F401

    with pytest.raises(RuntimeError, match=name):
        getattr(torch.classes.fbgemm, name)


def test_the_slower_ssd_is_the_slower_plan() -> None:
    quick, slow = (
        replace(Cluster.parse("1x2xh100"), hardware=replace(HARDWARE["h100"], ssd_gbps=rate))
        for rate in (1, 0.1)
    )
    times = [plan_of([TABLE], cluster).step.table_compute_ms for cluster in (quick, slow)]
    assert times[1] == pytest.approx(10 * times[0], rel=0.01)
