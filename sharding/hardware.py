"""Hardware catalogue: what one rank has. Data-sheet figures, every one of them overridable.

```python
from dataclasses import replace
from sharding.hardware import find_hardware

mine = replace(find_hardware("h100"), hbm_gib=94, source="nvidia-smi on our nodes")
```

`sharding.machines` holds the machines that one rents, with their prices.

GPU figures are those of one GPU in the vendor's own 8-GPU server (or the cloud instance named in
`source`). Link speeds are per direction. Memory of a GPU is its nominal size, of which programs see slightly
less; cards with GDDR memory lose 1/16 of it to ECC, and the entries say what is left. Bandwidth of host
memory is sockets x channels x speed / GPUs with the fastest memory that the CPUs take, 8 bytes at a time:
25.6 GB/s for a channel of DDR4-3200. SSDs are the local NVMe drives, decimal TB in GiB. Their bandwidth for
single rows is a guess: the 0.1 GiB/s that TorchRec's planner takes for the SSD kernel; nobody measured it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sharding.errors import PlanError
from sharding.measured import Measured
from sharding.units import GIB

_SSD_GBPS = 0.105


@dataclass(frozen=True)
class Hardware:
    """What one rank has: a GPU with its share of the host, or a share of a CPU host.

    Attributes:
        name: catalogue name, as in `2x8xh100`.
        device: where tables and dense layers live.
        hbm_gib: nominal memory of the GPU, less what ECC takes; 0 on CPU.
        hbm_gbps: peak bandwidth of that memory, GB/s.
        host_memory_gib: host memory per rank.
        host_memory_gbps: bandwidth of host memory per rank, GB/s.
        pcie_gbps: host to GPU, GB/s.
        nvlink_gbps: between two ranks of one node, GB/s (PCIe where there is no NVLink).
        nic_gbps: network of one rank to other nodes, GB/s.
        fp32_tflops: peak of matrix products in fp32, without TF32.
        bf16_tflops: peak of matrix products in bf16, without sparsity.
        source: where the figures are from.
        price_per_hour: list price of one rank, USD; None where none is known.
        price_source: whose list, where and when.
        measured: what `shardrec bench hardware` found, which estimates take before all of the above.
        ssd_gib: local SSD per rank; 0 where there is none.
        ssd_gbps: rate at which it gives single rows, GB/s.
    """

    name: str
    device: Literal["cuda", "cpu"]
    hbm_gib: float
    hbm_gbps: float
    host_memory_gib: float
    host_memory_gbps: float
    pcie_gbps: float
    nvlink_gbps: float
    nic_gbps: float
    fp32_tflops: float
    bf16_tflops: float
    source: str
    price_per_hour: float | None = None
    price_source: str | None = None
    measured: Measured | None = None
    ssd_gib: float = 0
    ssd_gbps: float = _SSD_GBPS

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Hardware:
        """Return what `dataclasses.asdict` described."""
        measured = record.get("measured")
        return cls(**{**record, "measured": None if measured is None else Measured.from_record(measured)})

    @property
    def memory_gib(self) -> float:
        """Return the memory that holds tables by default: HBM, or host memory on CPU."""
        return self.hbm_gib if self.device == "cuda" else self.host_memory_gib


def _gpu(
    name: str,
    hbm: tuple[float, float],
    host: tuple[float, float],
    links: tuple[float, float, float],
    tflops: tuple[float, float],
    source: str,
    ssd_gb: float,
) -> Hardware:
    """Build an entry from (GiB, GB/s) of HBM and of host memory, links, (fp32, bf16) and GB of SSD.

    Links are PCIe, NVLink and NIC.
    """
    ssd_gib = round(ssd_gb * 1e9 / GIB)
    return Hardware(name, "cuda", *hbm, *host, *links, *tflops, source, ssd_gib=ssd_gib)


_ENTRIES = (
    _gpu(
        "a100-40",
        (40, 1555),
        (128, 51.2),
        (32, 300, 25),
        (19.5, 312),
        "NVIDIA A100 data sheet (SXM4 40 GB); DGX A100 320 GB: 1 TB host memory (2 sockets x 8 channels x "
        "DDR4-3200), 8 x 200 Gb/s, 4 x 3.84 TB of SSD",
        ssd_gb=1920,
    ),
    _gpu(
        "a100-80",
        (80, 2039),
        (256, 51.2),
        (32, 300, 25),
        (19.5, 312),
        "NVIDIA A100 data sheet (SXM4 80 GB); DGX A100 640 GB: 2 TB host memory (2 sockets x 8 channels x "
        "DDR4-3200), 8 x 200 Gb/s, 8 x 3.84 TB of SSD",
        ssd_gb=3840,
    ),
    _gpu(
        "h100",
        (80, 3350),
        (256, 76.8),
        (64, 450, 50),
        (67, 989),
        "NVIDIA H100 data sheet (SXM5); DGX H100: 2 TB host memory (2 sockets x 8 channels x DDR5-4800), "
        "8 x 400 Gb/s, 8 x 3.84 TB of SSD",
        ssd_gb=3840,
    ),
    _gpu(
        "h200",
        (141, 4800),
        (256, 76.8),
        (64, 450, 50),
        (67, 989),
        "NVIDIA H200 data sheet (SXM5); DGX H200: 2 TB host memory (2 sockets x 8 channels x DDR5-4800), "
        "8 x 400 Gb/s, 8 x 3.84 TB of SSD",
        ssd_gb=3840,
    ),
    _gpu(
        "b200",
        (180, 8000),
        (256, 89.6),
        (64, 900, 50),
        (75, 2250),
        "NVIDIA DGX B200 data sheet: 1,440 GB and 64 TB/s over 8 GPUs, 2 TB host memory (2 sockets x 8 "
        "channels x DDR5-5600), 8 x 400 Gb/s, 8 x 3.84 TB of SSD; NVIDIA HGX B200: 600 and (without "
        "sparsity) 18,000 TFLOPS over 8 GPUs",
        ssd_gb=3840,
    ),
    _gpu(
        "l40s",
        (45, 864),
        (192, 51.2),
        (32, 32, 6.25),
        (91.6, 362),
        "NVIDIA L40S data sheet (48 GB less ECC, no NVLink); Amazon EC2 g6e.48xlarge: 1,536 GiB (AMD EPYC of "
        "the 3rd generation: 2 sockets x 8 channels x DDR4-3200), 400 Gb/s, 4 x 1.9 TB of SSD",
        ssd_gb=950,
    ),
    _gpu(
        "a10g",
        (22.5, 600),
        (96, 51.2),
        (32, 32, 1.56),
        (31.5, 70),
        "NVIDIA A10G (24 GB less ECC, no NVLink); Amazon EC2 g5.48xlarge: 768 GiB (AMD EPYC of the 2nd "
        "generation: 2 sockets x 8 channels x DDR4-3200), 100 Gb/s, 2 x 3.8 TB of SSD",
        ssd_gb=950,
    ),
    _gpu(
        "t4",
        (15, 300),
        (48, 35.2),
        (16, 16, 1.56),
        (8.1, 8.1),
        "NVIDIA T4 data sheet (16 GB less ECC, no NVLink, no bf16 units); Amazon EC2 g4dn.metal: 384 GiB "
        "(Intel Cascade Lake: 2 sockets x 6 channels x DDR4-2933), 100 Gb/s, 2 x 0.9 TB of SSD",
        ssd_gb=225,
    ),
    Hardware(
        name="cpu",
        device="cpu",
        hbm_gib=0,
        hbm_gbps=0,
        host_memory_gib=8,
        host_memory_gbps=0.5,
        pcie_gbps=0.5,
        nvlink_gbps=0.5,
        nic_gbps=0.5,
        fp32_tflops=0.05,
        bf16_tflops=0.05,
        source="order of magnitude: what FBGEMM's CPU kernels, matrix products and gloo reach per rank on a "
        "2-core host",
    ),
)
HARDWARE: dict[str, Hardware] = {entry.name: entry for entry in _ENTRIES}
"""The catalogue by name."""


def find_hardware(name: str, entries: Mapping[str, Hardware] = HARDWARE) -> Hardware:
    """Return a catalogue entry.

    Args:
        name: of the entry, in any case.
        entries: the catalogue.

    Raises:
        PlanError: no such entry; the message suggests the nearest one.
    """
    entry = entries.get(name.lower())
    if entry is None:
        raise no_such_entry(name, list(entries))
    return entry


def no_such_entry(name: str, known: Sequence[str]) -> PlanError:
    """Return the error for a name that the catalogue does not have."""
    spelt = {entry.lower(): entry for entry in known}
    near = [entry for entry in spelt if entry.startswith(name.lower())]
    near = near or difflib.get_close_matches(name.lower(), list(spelt), n=1, cutoff=0.3)
    return PlanError(
        "the hardware catalogue has no such entry",
        where="cluster",
        got=name,
        allowed=list(known),
        fixes=[f"did you mean {' or '.join(repr(spelt[entry]) for entry in near[:3])}?"] if near else [],
    )
