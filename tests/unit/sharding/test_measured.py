"""Measured speeds: reckoned by hand, between what was measured, and in plans."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from sharding.dense import DenseLayout
from sharding.dense_part import DenseWork, dense_part
from sharding.hardware import Hardware, find_hardware
from sharding.hardware_differences import hardware_differences
from sharding.measured import CollectiveRate, LookupRate, Measured, exchange_latency_ms
from sharding.plan import Plan
from sharding.report import plan_report
from sharding.tables import TableSpec
from sharding.topology import Cluster
from tests.unit.sharding.planning import model_of, plan_of

# A row of 16 columns takes 10 ns forward and 40 ns backward where the table is small, ten times that where it
# is large; one of 64 columns twice the time of one of 16.
LOOKUPS = tuple(
    LookupRate(
        dim,
        mib,
        forward_gbps=dim * 4 / (10 * wide * slow),
        forward_bag_ns=100.0 * wide,
        backward_gbps=dim * 4 / (40 * wide * slow),
        backward_bag_ns=50.0 * wide,
    )
    for dim, wide in ((16, 1), (64, 2))
    for mib, slow in ((1.0, 1), (256.0, 10))
)
EXCHANGES = tuple(
    CollectiveRate(kind, 2, 1, latency_ms, gbps)
    for kind, latency_ms, gbps in (
        ("all_to_all", 0.5, 2.0),
        ("all_reduce", 0.25, 1.0),
        ("reduce_scatter", 2.0, 4.0),
        ("all_gather", 3.0, 8.0),
    )
)
MEASURED = Measured(
    machine="a box",
    date="2026-11-28",
    lookups=LOOKUPS,
    step_overhead_ms=7.0,
    table_overhead_ms=0.125,
    fp32_tflops=0.5,
    collectives=EXCHANGES,
)
MIB = 2**20


def test_what_differs_between_two_calibrations_is_told_number_by_number() -> None:
    faster = (replace(LOOKUPS[0], forward_bag_ns=80.0), *LOOKUPS[1:])
    exchanges = (replace(EXCHANGES[0], gbps=3.0), *EXCHANGES[1:3], replace(EXCHANGES[3], ranks=4))
    changed = hardware(lookups=faster, collectives=exchanges, date="2026-11-29", bf16_tflops=0.25)
    assert hardware_differences(hardware(), replace(changed, pcie_gbps=2.0)) == [
        "hardware.pcie_gbps: 0.5 -> 2.0",
        "hardware.measured: measured on a box, 2026-11-28 -> measured on a box, 2026-11-29",
        "hardware.measured.bf16_tflops: none -> 0.25",
        "hardware.measured.lookups of 16 columns in 1 MiB: forward_bag_ns: 100.0 -> 80.0",
        "hardware.measured.collectives, all_to_all of 2 ranks on 1 node: gbps: 2.0 -> 3.0",
        "hardware.measured.collectives, all_gather of 2 ranks on 1 node: latency_ms: 3.0 -> none",
        "hardware.measured.collectives, all_gather of 2 ranks on 1 node: gbps: 8.0 -> none",
        "hardware.measured.collectives, all_gather of 4 ranks on 1 node: latency_ms: none -> 3.0",
        "hardware.measured.collectives, all_gather of 4 ranks on 1 node: gbps: none -> 8.0",
    ]
    plain = replace(hardware(), measured=None)
    assert hardware_differences(plain, hardware()) == [
        "hardware.measured: none -> measured on a box, 2026-11-28"
    ]


def hardware(**changes: Any) -> Hardware:
    return replace(find_hardware("cpu"), measured=replace(MEASURED, **changes), nvlink_gbps=0.125)


def cluster(ranks: int, nodes: int = 1, **changes: Any) -> Cluster:
    return Cluster(nodes=nodes, ranks_per_node=ranks, hardware=hardware(**changes))


@pytest.mark.parametrize(
    ("dim", "table_mib", "row_ns", "bag_ns"),
    [
        (16, 1, 10, 100),
        (16, 256, 100, 100),
        (16, 16, 55, 100),  # half way between 1 and 256 MiB by the logarithm
        (16, 0.001, 10, 100),  # below all sizes and above them: the nearest one's
        (16, 9999, 100, 100),
        (40, 1, 15, 150),  # half way between the widths
        (128, 1, 40, 400),  # twice the widest
        (4, 1, 10, 100),
    ],
)
def test_a_lookup_takes_the_time_of_its_rows_and_bags(
    dim: int, table_mib: float, row_ns: float, bag_ns: float
) -> None:
    found = MEASURED.lookup_ms("forward", ids=3000, bags=200, dim=dim, table_bytes=table_mib * MIB)
    assert found == pytest.approx((3000 * row_ns + 200 * bag_ns) / 1e6)


def test_updates_have_times_of_their_own_and_narrow_values_take_less() -> None:
    size = {"ids": 3000.0, "bags": 200.0, "dim": 16, "table_bytes": float(MIB)}
    assert MEASURED.lookup_ms("backward", **size) == pytest.approx((3000 * 40 + 200 * 50) / 1e6)
    assert MEASURED.lookup_ms("backward", **size, value_bytes=2) == pytest.approx(
        (3000 * 20 + 200 * 50) / 1e6
    )


def test_latencies_count_once_for_the_tables_that_are_sent_together() -> None:
    def both(uses: list[tuple[str, bool]], ranks: int = 2, nodes: int = 1) -> tuple[float, float]:
        return exchange_latency_ms(uses, MEASURED, ranks, nodes)

    assert both([("table_wise", True)]) == (1.0, 1.5)
    assert both([("row_wise", True)]) == (5.0, 1.5)
    assert both([("row_wise", False)]) == (1.0, 1.5)
    assert both([("data_parallel", True)]) == (0.25, 0.0)
    assert both([("table_wise", True), ("row_wise", True)]) == (6.0, 3.0)
    assert both([("table_wise", True)], ranks=1) == (0.0, 0.0)
    assert both([("table_wise", True)], ranks=4) == (0.0, 0.0)
    assert both([("table_wise", True)], nodes=2) == (0.0, 0.0)
    assert exchange_latency_ms([("table_wise", True)], None, 2, 1) == (0.0, 0.0)


def test_a_plan_on_one_rank_takes_what_was_measured() -> None:
    # 4096 rows of 64 columns are 1 MiB.
    tables = [TableSpec(f"t{i}", 4096, 64, (f"f{i}",), pooling_factors=(3.0,)) for i in range(2)]
    plan = plan_of(tables, cluster(1), batch_size_per_rank=1000)
    forward = 3000 * 20e-6 + 1000 * 200e-6
    backward = 3000 * 80e-6 + 1000 * 100e-6
    (rank,) = plan.memory
    assert rank.step.compute_ms == pytest.approx(7.0 + 2 * (0.125 + forward + backward))
    assert rank.step.exchange_ms == rank.step.input_ms == 0


def test_a_plan_on_two_ranks_exchanges_at_measured_speeds() -> None:
    tables = [TableSpec(f"t{i}", 4096, 64, (f"f{i}",), sharding_types=("table_wise",)) for i in range(2)]
    plan = plan_of(tables, cluster(2), batch_size_per_rank=1000)
    sent = 2 * 1000 * 64 * 4
    for rank in plan.memory:
        assert rank.step.compute_ms == pytest.approx(7.0 + 0.125 + 2000 * (20 + 80 + 200 + 100) * 1e-6)
        assert rank.step.exchange_ms == pytest.approx(2 * (0.5 + sent / 2e6), rel=1e-4)
        assert rank.step.input_ms == pytest.approx(3 * 0.5 + 2 * 1000 * 8 / 2e6, rel=1e-4)


def test_row_wise_ranks_share_the_ids_but_not_the_bags() -> None:
    table = TableSpec("t", 8192, 64, ("f",), sharding_types=("row_wise",), pooling_factors=(4.0,))
    plan = plan_of([table], cluster(2), batch_size_per_rank=1000)
    compute = 7.0 + 0.125 + (4000 * (20 + 80) + 2000 * (200 + 100)) * 1e-6
    assert plan.memory[0].step.compute_ms == pytest.approx(compute)


def test_a_plan_says_where_its_speeds_are_from(tmp_path: Path) -> None:
    tables = [TableSpec("t", 4096, 64, ("f",))]
    told = {
        "a box": plan_of(tables, cluster(2)),
        "some of each": plan_of(tables, cluster(4)),
        "data sheet": plan_of(tables, "1x2xcpu"),
    }
    basis = {name: plan.estimate["basis"] for name, plan in told.items()}
    assert basis == {
        "a box": "measured on a box, 2026-11-28",
        "some of each": "measured on a box, 2026-11-28; "
        "exchanges among 4 ranks from data sheet, uncalibrated",
        "data sheet": "from data sheet, uncalibrated",
    }
    for name, plan in told.items():
        assert basis[name] in plan_report(plan)
        again = Plan.load(plan.save(tmp_path / "plan.json"))
        assert (again.summary()["estimate_basis"], again.cluster) == (basis[name], plan.cluster)


def test_ranks_that_were_not_measured_exchange_at_the_speed_of_the_links() -> None:
    tables = [TableSpec(f"t{i}", 4096, 64, (f"f{i}",), sharding_types=("table_wise",)) for i in range(4)]
    plan = plan_of(tables, cluster(4), batch_size_per_rank=1000)
    assert plan.memory[0].step.exchange_ms == pytest.approx(2 * 4 * 1000 * 64 * 4 / 0.125e6, rel=1e-4)


def test_dense_layers_reach_all_of_the_measured_rate() -> None:
    model, work = model_of([TableSpec("t", 100, 8, ("f",))]), DenseWork(forward_flops=1e6)

    def part(where: Cluster, bf16: bool = False) -> tuple[float, float]:
        made = dense_part(model, where, DenseLayout(2), work=work, bf16=bf16, efficiency=0.5)
        return made.peak_tflops, made.efficiency

    assert part(cluster(2)) == (0.5, 1.0)
    assert part(cluster(2), bf16=True) == (0.05, 0.5)
    assert part(cluster(2, bf16_tflops=0.75), bf16=True) == (0.75, 1.0)
    assert part(Cluster(ranks_per_node=2)) == (0.05, 0.5)


def test_gradients_of_the_dense_part_are_summed_at_the_measured_rate() -> None:
    made = dense_part(model_of([TableSpec("t", 100, 8, ("f",))]), cluster(2), DenseLayout(2))
    assert made.gradients == 36  # nn.Linear(8, 1) in fp32
    assert made.exchange_ms(cluster(2)) == pytest.approx(0.25 + 36 / 1e6)
    assert made.exchange_ms(cluster(4)) == made.traffic.milliseconds(cluster(4))


def test_kernels_that_were_not_measured_keep_the_times_of_the_data_sheet() -> None:
    table = TableSpec("t", 10**6, 64, ("f",), compute_kernels=("fused_uvm",), sharding_types=("table_wise",))
    before = find_hardware("h100")
    known = Cluster(gpus_per_node=1, gpu="h100", hardware=replace(before, measured=MEASURED))
    mine, theirs = (
        plan_of([table], where).memory[0].step.compute_ms
        for where in (known, Cluster(gpus_per_node=1, gpu="h100"))
    )
    assert mine == pytest.approx(7.0 + theirs, rel=1e-4)


def test_a_record_comes_back_as_it_was() -> None:
    assert Measured.from_record(asdict(MEASURED)) == MEASURED
    assert Hardware.from_record(asdict(hardware())) == hardware()
