"""Calibration on two ranks: exchanges are measured between them, lookups on each of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.benchmarks.calibrating import as_yaml, bench_hardware
from jobs.cluster import Cluster
from jobs.hardware import catalogue_of
from sharding import topology
from sharding.calibration.job import Calibration
from sharding.tables import TableSpec
from tests.unit.sharding.planning import plan_of
from trainer.config import HardwareConfig

pytestmark = pytest.mark.thorough

SMALL = Calibration(dims=(8,), table_mib=(1,), batch_size=32, poolings=(1, 4), repeats=2, copy_mib=1)


def test_two_ranks_measure_what_they_send_each_other(tmp_path: Path) -> None:
    catalogue = bench_hardware(Cluster.local(2, on="torchrun", device="cpu"), SMALL)
    entry = catalogue["gpus"]["cpu"]
    rates = entry["measured"]["collectives"]
    assert {(rate["ranks"], rate["nodes"]) for rate in rates} == {(2, 1)}
    (sent,) = (rate["gbps"] for rate in rates if rate["kind"] == "all_to_all")
    assert entry["nvlink_gbps"] == pytest.approx(sent / 2, rel=1e-3)
    assert len(entry["measured"]["lookups"]) == 2

    file = tmp_path / "mine.yaml"
    file.write_text(as_yaml(catalogue))
    found = catalogue_of(HardwareConfig(), file)
    tables = [TableSpec(f"t{i}", 1000, 8, (f"f{i}",)) for i in range(2)]
    for cluster, exchanges_measured in (("1x2xcpu", True), ("1x4xcpu", False)):
        basis = plan_of(tables, topology.Cluster.parse(cluster, found)).estimate["basis"]
        assert basis.startswith("measured on")
        assert ("data sheet" not in basis) == exchanges_measured
