"""What calibration makes of timings: known costs come back."""

from __future__ import annotations

import pytest

from sharding.calibration.exchanges import link_gbps
from sharding.calibration.job import Calibration
from sharding.calibration.lookups import fit_lookup, table_wise_latency_ms
from sharding.calibration.timing import fit_line
from sharding.measured import CollectiveRate


def test_latency_and_bandwidth_come_back_from_timings_that_follow_them() -> None:
    sizes = [4096.0, 65536.0, 2.0**20, 2.0**23]
    latency, per_byte = fit_line(sizes, [0.05 + size / 2e6 for size in sizes])
    assert latency == pytest.approx(0.05)
    assert 1e-6 / per_byte == pytest.approx(2.0)


def test_both_ends_count_where_timings_are_noisy() -> None:
    sizes = [4096.0, 65536.0, 2.0**20, 2.0**23]
    noise = [1.1, 0.9, 1.1, 0.9]
    latency, per_byte = fit_line(sizes, [(0.05 + s / 2e6) * n for s, n in zip(sizes, noise, strict=True)])
    assert latency == pytest.approx(0.05, rel=0.15)
    assert 1e-6 / per_byte == pytest.approx(2.0, rel=0.15)


def test_a_line_starts_at_0_at_least_and_never_falls() -> None:
    # Through 0 the least sum of (slope / 1 - 1)^2 + (2 * slope / 3 - 1)^2 is at 15 / 13.
    assert fit_line([1, 2], [1, 3]) == pytest.approx((0, 15 / 13))
    assert fit_line([1, 2], [5, 3]) == (4.0, 0.0)


def test_costs_of_row_and_bag_come_back_from_two_poolings() -> None:
    bags, overhead_ms = 4096, 0.5
    times = [overhead_ms + bags * (80 + pooling * 12.5) / 1e6 for pooling in (1, 20)]
    assert fit_lookup(times, (1, 20), bags, overhead_ms) == pytest.approx((12.5, 80))


def test_a_step_below_its_overhead_still_costs_something() -> None:
    row_ns, bag_ns = fit_lookup([0.5, 1.0], (1, 20), 1000, overhead_ms=2.0)
    assert row_ns > 0
    assert bag_ns >= 0


def test_what_a_rank_sends_leaves_out_its_own_part() -> None:
    def rates(ranks: int) -> list[CollectiveRate]:
        return [CollectiveRate("all_to_all", ranks, 1, 0.1, 8.0)]

    assert link_gbps(rates(4)) == 6.0
    assert link_gbps(rates(1)) is None
    assert table_wise_latency_ms(rates(4)) == pytest.approx(0.5)
    assert table_wise_latency_ms(rates(1)) == 0


def test_tables_have_the_sizes_asked_for() -> None:
    wanted = Calibration(table_mib=(8, 256))
    assert wanted.sizes(16) == [1000, 2**17, 2**22]
    assert Calibration.from_record({"dims": [8], "poolings": [1, 3]}) == Calibration(
        dims=(8,), poolings=(1, 3)
    )
