"""The job of every rank of `shardrec bench hardware`: measure, together with the others; rank 0 writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from sharding.calibration.arrays import copy_gbps, matrix_tflops
from sharding.calibration.exchanges import link_gbps, measure_exchanges, message_sizes
from sharding.calibration.lookups import (
    LARGE_GPU,
    Batches,
    alone,
    measure_lookups,
    measure_overheads,
    table_wise_latency_ms,
)
from sharding.hosts import RankContext
from sharding.measured import CollectiveRate, LookupRate, Measured
from sharding.quiet import quiet_torchrec
from sharding.topology import Cluster
from sharding.units import MIB

REQUEST_FILE, RESULT_FILE = "request.json", "result.json"
_FEW_ROWS = 1000


@dataclass(frozen=True)
class Calibration:
    """What to measure, and how long.

    Attributes:
        dims: widths of tables.
        table_mib: sizes of tables beside those of 1,000 rows; the largest should outgrow every cache.
        batch_size: rows of a batch.
        poolings: ids of a bag, two different numbers.
        features: that look a table up in a step.
        repeats: timed runs; the figures are medians.
        copy_mib: size of the copies.
    """

    dims: tuple[int, ...] = (16, 32, 64, 128, 256)
    table_mib: tuple[int, ...] = (8, 256)
    batch_size: int = 2048
    poolings: tuple[int, int] = (1, 20)
    features: int = 8
    repeats: int = 7
    copy_mib: int = 256

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Calibration:
        """Return what `dataclasses.asdict` described, read back from JSON."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
        return cls(**values)

    def sizes(self, dim: int) -> list[int]:
        """Return the rows of the tables to measure."""
        return [_FEW_ROWS, *(mib * MIB // (4 * dim) for mib in self.table_mib)]


def calibrate_rank(folder: Path, context: RankContext) -> str:
    """Measure as `request.json` asks; rank 0 writes `result.json`, a catalogue entry."""
    wanted = Calibration.from_record(json.loads((folder / REQUEST_FILE).read_text()))
    with quiet_torchrec():
        entry = calibrate(wanted, context)
    if context.rank == 0:
        (folder / RESULT_FILE).write_text(json.dumps(entry))
    return "finished"


def calibrate(wanted: Calibration, context: RankContext) -> dict[str, Any]:
    """Measure what the estimates need; every rank calls this, and all get the slowest rank's figures.

    Args:
        wanted: what to measure.
        context: this rank.

    Returns:
        Figures of a catalogue entry, by their names there; all but `measured` in place of data-sheet ones.
    """
    device, repeats = context.device, wanted.repeats
    nodes = max(1, context.world_size // context.local_world_size)
    exchanges = measure_exchanges(device, nodes, message_sizes(device), repeats)
    cuda = device.type == "cuda"
    fp32 = matrix_tflops(device, torch.float32, wanted.batch_size, repeats)
    bf16 = matrix_tflops(device, torch.bfloat16, wanted.batch_size, repeats) if cuda else None
    (step_ms, table_ms), lookups = _measure_lookups(wanted, context, tuple(exchanges))
    measured = Measured(
        machine=_machine(context),
        date=date.today().isoformat(),
        lookups=tuple(lookups),
        step_overhead_ms=step_ms,
        table_overhead_ms=table_ms,
        fp32_tflops=fp32,
        bf16_tflops=bf16,
        collectives=tuple(exchanges),
    )
    link = link_gbps(exchanges)
    links = {} if link is None else {"nvlink_gbps" if nodes == 1 else "nic_gbps": link}
    return {**_copies(wanted, device), **links, "measured": asdict(measured)}


def _measure_lookups(
    wanted: Calibration, context: RankContext, exchanges: tuple[CollectiveRate, ...]
) -> tuple[tuple[float, float], list[LookupRate]]:
    """Return the overheads of a step and of each table, and the lookups."""
    device = context.device
    group, _ = dist.new_subgroups(group_size=1)  # type: ignore[no-untyped-call]
    here = measure_overheads(group, device, alone(device), 3 * wanted.repeats)
    overheads = here
    if context.world_size > 1:
        step_ms, table_ms = measure_overheads(None, device, _cluster(context), 3 * wanted.repeats)
        overheads = max(0.0, step_ms - table_wise_latency_ms(exchanges)), table_ms
    batches = Batches(wanted.batch_size, wanted.poolings, wanted.features, wanted.repeats)
    lookups = [
        measure_lookups(group, device, dim, rows, batches, here)
        for dim in wanted.dims
        for rows in wanted.sizes(dim)
    ]
    dist.destroy_process_group(group)
    return overheads, lookups


def _cluster(context: RankContext) -> Cluster:
    """Return the shape of the launch."""
    nodes, local = context.world_size // context.local_world_size, context.local_world_size
    if context.device.type == "cpu":
        return Cluster(nodes=nodes, ranks_per_node=local)
    return Cluster(nodes=nodes, gpus_per_node=local, gpu=LARGE_GPU)


def _copies(wanted: Calibration, device: torch.device) -> dict[str, float]:
    """Return bandwidths of memory, by their names in the catalogue."""
    host, size = torch.device("cpu"), wanted.copy_mib * MIB
    found = {"host_memory_gbps": copy_gbps(host, host, wanted.repeats, size)}
    if device.type == "cuda":
        found["hbm_gbps"] = copy_gbps(device, device, wanted.repeats, size)
        found["pcie_gbps"] = copy_gbps(host, device, wanted.repeats, size)
    return found


def _machine(context: RankContext) -> str:
    """Return what was measured, and with how many ranks, since they share a host."""
    what = _gpu(context.device) if context.device.type == "cuda" else _processor()
    nodes = max(1, context.world_size // context.local_world_size)
    hosts = "" if nodes == 1 else f" on {nodes} hosts"
    threads = "" if context.device.type == "cuda" else f" of {torch.get_num_threads()} threads"
    return f"{context.host} ({what}), {context.world_size} ranks{threads}{hosts}"


def _gpu(device: torch.device) -> str:
    return str(torch.cuda.get_device_name(device))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "CPU"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")
