"""Hardware catalogue: what one rank has. Data-sheet figures, every one of them overridable.

```python
from dataclasses import replace
from sharding.hardware import find_hardware

mine = replace(find_hardware("h100"), hbm_gib=94, source="nvidia-smi on our nodes")
```

GPU figures are those of one GPU in the vendor's own 8-GPU server (or the cloud instance named in
`source`). Link speeds are per direction. Cards with GDDR memory lose 1/16 of it to ECC; the entries say
what is left.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from sharding.errors import PlanError


@dataclass(frozen=True)
class Hardware:
    """What one rank has: a GPU with its share of the host, or a share of a CPU host.

    Attributes:
        name: catalogue name, as in `2x8xh100`.
        device: where tables and dense layers live.
        hbm_gib: memory of the GPU that programs see; 0 on CPU.
        hbm_gbps: peak bandwidth of that memory, GB/s.
        host_memory_gib: host memory per rank.
        host_memory_gbps: bandwidth of host memory per rank, GB/s.
        pcie_gbps: host to GPU, GB/s.
        nvlink_gbps: between two ranks of one node, GB/s (PCIe where there is no NVLink).
        nic_gbps: network of one rank to other nodes, GB/s.
        source: where the figures are from.
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
    source: str

    @property
    def memory_gib(self) -> float:
        """Return the memory that holds tables by default: HBM, or host memory on CPU."""
        return self.hbm_gib if self.device == "cuda" else self.host_memory_gib


def _gpu(
    name: str,
    hbm: tuple[float, float],
    host: tuple[float, float],
    links: tuple[float, float, float],
    source: str,
) -> Hardware:
    """Build an entry from (GiB, GB/s) of HBM and of host memory, and (PCIe, NVLink, NIC) in GB/s."""
    return Hardware(name, "cuda", *hbm, *host, *links, source)


_ENTRIES = (
    _gpu(
        "a100-40",
        (40, 1555),
        (128, 25),
        (32, 300, 25),
        "NVIDIA A100 data sheet (SXM4 40 GB); DGX A100 320 GB: 1 TB host memory, 8 x 200 Gb/s",
    ),
    _gpu(
        "a100-80",
        (80, 2039),
        (256, 25),
        (32, 300, 25),
        "NVIDIA A100 data sheet (SXM4 80 GB); DGX A100 640 GB: 2 TB host memory, 8 x 200 Gb/s",
    ),
    _gpu(
        "h100",
        (80, 3350),
        (256, 38),
        (64, 450, 50),
        "NVIDIA H100 data sheet (SXM5); DGX H100: 2 TB host memory, 8 x 400 Gb/s",
    ),
    _gpu(
        "h200",
        (141, 4800),
        (256, 38),
        (64, 450, 50),
        "NVIDIA H200 data sheet (SXM5); DGX H200: 2 TB host memory, 8 x 400 Gb/s",
    ),
    _gpu(
        "b200",
        (180, 8000),
        (256, 44),
        (64, 900, 50),
        "NVIDIA DGX B200 data sheet: 1,440 GB and 64 TB/s over 8 GPUs, 2 TB host memory, 8 x 400 Gb/s",
    ),
    _gpu(
        "l40s",
        (45, 864),
        (192, 38),
        (32, 32, 6.25),
        "NVIDIA L40S data sheet (48 GB less ECC, no NVLink); Amazon EC2 g6e.48xlarge: 1,536 GiB, 400 Gb/s",
    ),
    _gpu(
        "a10g",
        (22.5, 600),
        (96, 25),
        (32, 32, 1.56),
        "NVIDIA A10G (24 GB less ECC, no NVLink); Amazon EC2 g5.48xlarge: 768 GiB, 100 Gb/s",
    ),
    _gpu(
        "t4",
        (15, 300),
        (48, 20),
        (16, 16, 1.56),
        "NVIDIA T4 data sheet (16 GB less ECC, no NVLink); Amazon EC2 g4dn.metal: 384 GiB, 100 Gb/s",
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
        source="order of magnitude: what FBGEMM's CPU kernels and gloo reach per rank on a 2-core host",
    ),
)
HARDWARE: dict[str, Hardware] = {entry.name: entry for entry in _ENTRIES}
"""The catalogue by name."""


def find_hardware(name: str) -> Hardware:
    """Return a catalogue entry.

    Raises:
        PlanError: no such entry; the message suggests the nearest one.
    """
    entry = HARDWARE.get(name.lower())
    if entry is None:
        near = difflib.get_close_matches(name.lower(), HARDWARE, n=1, cutoff=0.3)
        raise PlanError(
            "the hardware catalogue has no such entry",
            where="cluster",
            got=name,
            allowed=list(HARDWARE),
            fixes=[f"did you mean {near[0]!r}?"] if near else [],
        )
    return entry
