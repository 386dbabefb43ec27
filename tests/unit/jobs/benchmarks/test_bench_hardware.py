"""`shardrec bench hardware`: one real run on one rank, and the plan that its entry gives."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from jobs.benchmarks import calibrating
from jobs.benchmarks.calibrating import as_text, as_yaml, bench_hardware
from jobs.cli import main
from jobs.hardware import catalogue_of
from sharding.calibration.job import Calibration
from sharding.tables import TableSpec
from sharding.topology import Cluster
from tests.unit.sharding.planning import plan_of
from trainer.config import HardwareConfig
from trainer.errors import ConfigError

SMALL = Calibration(dims=(8, 16), table_mib=(1,), batch_size=32, poolings=(1, 4), repeats=2, copy_mib=1)


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for each in value.values() for number in numbers(each)]
    if isinstance(value, list):
        return [number for each in value for number in numbers(each)]
    return [value] if isinstance(value, (int, float)) else []


def test_this_machine_is_measured_and_planned_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrating, "bench_hardware", partial(bench_hardware, wanted=SMALL))
    file = tmp_path / "mine.yaml"
    assert main(["bench", "hardware", "--on", "process", "--out", str(file), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "lookups" in err
    entry = json.loads(out)["gpus"]["cpu"]
    measured = entry["measured"]
    assert [(rate["dim"], rate["table_mib"]) for rate in measured["lookups"]] == [
        (8, pytest.approx(0.0305, rel=0.01)),
        (8, 1),
        (16, pytest.approx(0.061, rel=0.01)),
        (16, 1),
    ]
    kinds = {rate["kind"] for rate in measured["collectives"]}
    assert kinds == {"all_to_all", "all_reduce", "reduce_scatter", "all_gather"}
    assert all(number >= 0 for number in numbers(entry))
    speeds = [measured["fp32_tflops"], entry["host_memory_gbps"], entry["host_memory_gib"]]
    speeds += [rate[f"{which}_gbps"] for rate in measured["lookups"] for which in ("forward", "backward")]
    speeds += [rate["gbps"] for rate in measured["collectives"]]
    assert min(speeds) > 0
    assert "nvlink_gbps" not in entry  # One rank has no link to measure.
    assert "all_to_all" in as_text({"gpus": {"cpu": entry}})

    cluster = Cluster.parse("1x1xcpu", catalogue_of(HardwareConfig(), file))
    plan = plan_of([TableSpec("t", 1000, 16, ("f",))], cluster)
    assert plan.estimate["basis"] == f"measured on {measured['machine']}, {measured['date']}"
    found = cluster.rank_hardware.measured
    assert found is not None
    assert (found.fp32_tflops, len(found.lookups)) == (measured["fp32_tflops"], 4)


def test_every_measured_number_can_be_replaced_by_hand(tmp_path: Path) -> None:
    lookup = {"dim": 8, "table_mib": 1.0, "forward_gbps": 1.5, "forward_bag_ns": 0.0}
    lookup |= {"backward_gbps": 0.5, "backward_bag_ns": 30.0}
    measured = {"machine": "m", "date": "d", "step_overhead_ms": 1.0, "table_overhead_ms": 0.0}
    entry = {"measured": {**measured, "fp32_tflops": 1.0, "lookups": [lookup]}}
    file = tmp_path / "mine.yaml"
    file.write_text(as_yaml({"gpus": {"cpu": entry}}))
    found = catalogue_of(HardwareConfig(), file).hardware["cpu"].measured
    assert found is not None
    assert (found.lookups[0].backward_gbps, found.bf16_tflops, found.collectives) == (0.5, None, ())


def test_a_measured_section_without_lookups_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    measured = "{machine: m, date: d, step_overhead_ms: 1, table_overhead_ms: 0, fp32_tflops: 1, lookups: []}"
    file.write_text(f"gpus: {{cpu: {{measured: {measured}}}}}\n")
    with pytest.raises(ConfigError, match="lookups"):
        catalogue_of(HardwareConfig(), file)
