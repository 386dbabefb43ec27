"""`shardrec bench hardware`: a catalogue entry of this machine, measured on the ranks of a launch."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from jobs.cluster import Cluster
from jobs.launch import launch, refuse_outer_torchrun

if TYPE_CHECKING:
    from sharding.calibration.job import Calibration

_JOB = "sharding.calibration.job:calibrate_rank"
_DIGITS = 4


def bench_hardware(
    cluster: Cluster, wanted: Calibration | None = None, told: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure on every rank at the same time.

    Args:
        cluster: the ranks to measure.
        wanted: what to measure.
        told: takes a line on what is measured.

    Returns:
        The catalogue with one entry, in the form that `plan.hardware` and `plan --hardware` take.

    Raises:
        UserError: the launch cannot work.
        RankError: a rank failed.
    """
    from sharding.calibration.job import REQUEST_FILE, RESULT_FILE, Calibration

    refuse_outer_torchrun(cluster.on)
    wanted = wanted or Calibration()
    told(
        f"measuring on {cluster.world_size} rank(s) ({cluster.device}): exchanges, matrix products, lookups "
        f"and updates of tables of {', '.join(map(str, wanted.dims))} columns, copies; a minute or so"
    )
    with tempfile.TemporaryDirectory(prefix="shardrec-bench-") as place:
        folder = Path(place)
        (folder / REQUEST_FILE).write_text(json.dumps(asdict(wanted)))
        launch(
            _JOB,
            folder,
            on=cluster.on,
            ranks=cluster.world_size,
            spark=cluster.spark,
            device=cluster.device,
            saves=False,
        )
        figures = json.loads((folder / RESULT_FILE).read_text())
    return {"gpus": {cluster.rank_hardware.name: catalogue_entry(cluster, figures)}}


def catalogue_entry(cluster: Cluster, figures: dict[str, Any]) -> dict[str, Any]:
    """Return an entry of `plan.hardware.gpus` from what `calibrate` has measured on a cluster."""
    hardware, measured = cluster.rank_hardware, figures["measured"]
    memory = {"host_memory_gib": hardware.host_memory_gib}
    if cluster.device == "cuda":
        memory["hbm_gib"] = hardware.hbm_gib
    source = f"measured on {measured['machine']}, {measured['date']}, by shardrec bench hardware"
    entry: dict[str, Any] = _rounded({"source": source, **memory, **figures})
    if entry["measured"]["bf16_tflops"] is None:
        del entry["measured"]["bf16_tflops"]
    return entry


def _rounded(value: Any) -> Any:
    """Return the value with numbers of four digits: no more is known."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(each) for each in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def as_yaml(catalogue: dict[str, Any]) -> str:
    """Return a catalogue as YAML, one line for each lookup and collective."""
    return yaml.safe_dump(catalogue, sort_keys=False, default_flow_style=None, width=200)


def as_text(catalogue: dict[str, Any]) -> str:
    """Return what was measured, for a terminal."""
    ((name, entry),) = catalogue["gpus"].items()
    measured = entry["measured"]
    bf16 = f", {measured['bf16_tflops']:g} in bf16" if "bf16_tflops" in measured else ""
    copies = [key for key in ("host_memory_gbps", "hbm_gbps", "pcie_gbps") if key in entry]
    return "\n".join(
        [
            f"{name}: {entry['source']}",
            f"overhead: {measured['step_overhead_ms']:g} ms a step, "
            f"{measured['table_overhead_ms']:g} ms a table",
            f"matrix products: {measured['fp32_tflops']:g} TFLOPS in fp32{bf16}",
            *(f"{key}: {entry[key]:g}" for key in copies),
            f"{'dim':>5} {'table MiB':>10} {'forward, row and bag':>24} {'backward, row and bag':>24}",
            *(_lookup_line(rate) for rate in measured["lookups"]),
            *(_collective_line(rate) for rate in measured["collectives"]),
        ]
    )


def _lookup_line(rate: dict[str, Any]) -> str:
    both = (f"{rate[f'{w}_gbps']:.3g} GB/s, {rate[f'{w}_bag_ns']:.3g} ns" for w in ("forward", "backward"))
    return f"{rate['dim']:>5} {rate['table_mib']:>10.4g} " + " ".join(f"{each:>24}" for each in both)


def _collective_line(rate: dict[str, Any]) -> str:
    where = f"{rate['ranks']} ranks on {rate['nodes']} hosts"
    return f"{rate['kind']}, {where}: {rate['latency_ms']:g} ms + bytes at {rate['gbps']:g} GB/s"
