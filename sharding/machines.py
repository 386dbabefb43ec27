"""Machines of clouds: how many GPUs of which kind, what they share, and what an hour costs.

Prices are list prices on demand for one region, before any discount or tax; they change, so each entry says
where and when its price was read. `plan.hardware` and `--hardware FILE` replace every figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sharding.hardware import HARDWARE, Hardware, no_such_entry
from sharding.units import GIB


@dataclass(frozen=True)
class Machine:
    """A machine with GPUs.

    Attributes:
        name: as its vendor writes it.
        gpu: catalogue name of its GPUs.
        gpus: their number.
        hbm_gib: memory of one GPU, where it differs from that of the GPU's entry.
        host_memory_gib: of the whole machine.
        host_memory_gbps: bandwidth of that memory, GB/s.
        nvlink_gbps: between two of its GPUs, GB/s per direction; PCIe where there is no NVLink.
        nic_gbps: network of the whole machine to others, GB/s per direction.
        source: where the figures are from.
        price_per_hour: list price on demand, USD; None where none is known.
        price_source: whose list, where and when.
        ssd_gib: local SSD of the whole machine; 0 where there is none.
    """

    name: str
    gpu: str
    gpus: int
    host_memory_gib: float
    host_memory_gbps: float
    nvlink_gbps: float
    nic_gbps: float
    source: str
    price_per_hour: float | None = None
    price_source: str | None = None
    hbm_gib: float | None = None
    ssd_gib: float = 0

    def rank_hardware(self, gpu: Hardware) -> Hardware:
        """Return what one of its ranks has: a GPU and an even share of the rest."""
        return replace(
            gpu,
            name=self.name,
            hbm_gib=gpu.hbm_gib if self.hbm_gib is None else self.hbm_gib,
            host_memory_gib=self.host_memory_gib / self.gpus,
            host_memory_gbps=self.host_memory_gbps / self.gpus,
            nvlink_gbps=self.nvlink_gbps,
            nic_gbps=self.nic_gbps / self.gpus,
            ssd_gib=self.ssd_gib / self.gpus,
            source=f"{self.source}; GPU: {gpu.source}",
            price_per_hour=None if self.price_per_hour is None else self.price_per_hour / self.gpus,
            price_source=self.price_source,
        )


@dataclass(frozen=True)
class _Processors:
    """Processors of a server: their generation, channels of a socket and million transfers a second."""

    name: str
    channels: int
    memory: str
    speed: int

    def gbps(self, sockets: int) -> float:
        """Return the bandwidth of a server's memory: channels are 8 bytes wide."""
        return sockets * self.channels * 8 * self.speed / 1000

    def text(self, sockets: int) -> str:
        """Return what the bandwidth is reckoned from."""
        plural = "s" if sockets > 1 else ""
        return (
            f"{sockets} socket{plural} x {self.channels} channels x {self.memory}-{self.speed} ({self.name})"
        )


_CASCADE_LAKE = _Processors("Intel Cascade Lake", 6, "DDR4", 2933)
_SAPPHIRE_RAPIDS = _Processors("Intel Sapphire Rapids", 8, "DDR5", 4800)
_EMERALD_RAPIDS = _Processors("Intel Emerald Rapids", 8, "DDR5", 5600)
_ROME = _Processors("AMD EPYC of the 2nd generation", 8, "DDR4", 3200)
_MILAN = _Processors("AMD EPYC of the 3rd generation", 8, "DDR4", 3200)


@dataclass(frozen=True)
class _List:
    """A vendor's list of machines: where their figures and prices are from, and GiB in its unit of SSDs.

    A machine is part of a server with so many GPUs and sockets.
    """

    figures: str
    prices: str | None = None
    ssd_gib: float = 1
    server_gpus: int = 8
    sockets: int = 2

    def entry(
        self,
        name: str,
        gpus: int,
        gpu: str,
        processors: _Processors,
        *,
        host: float,
        nic: float,
        ssd: float,
        price: float | None = None,
        hbm_gib: float | None = None,
    ) -> Machine:
        """Build an entry from GiB of host memory, Gb/s of network and SSD; the GPU's entry gives NVLink."""
        share = gpus / self.server_gpus
        part = "data sheet" if share == 1 else "guess: by GPUs its share of the server's"
        return Machine(
            name=name,
            gpu=gpu,
            gpus=gpus,
            host_memory_gib=host,
            host_memory_gbps=processors.gbps(self.sockets) * share,
            nvlink_gbps=HARDWARE[gpu].nvlink_gbps,
            nic_gbps=nic / 8,
            source=f"{self.figures}: {name}; GB/s of host memory: {processors.text(self.sockets)}, {part}",
            price_per_hour=price,
            price_source=None if price is None else self.prices,
            hbm_gib=hbm_gib,
            ssd_gib=round(ssd * self.ssd_gib),
        )


_ON_EC2 = "Amazon EC2 on demand, Linux, us-east-1 (N. Virginia), as listed by"
_AWS = _List("Amazon EC2 instance types", f"{_ON_EC2} instances.vantage.sh 2026-08-26", 1e9 / GIB)
# The network is what a machine keeps up, not the bursts of small ones.
_AWS_SMALL = _List(
    "karpenter-provider-aws, reference of Amazon EC2 instance types, read 2026-11-28",
    f"{_ON_EC2} karpenter-provider-aws 2026-02-09",
    1e9 / GIB,
)
# The network is that of the NICs of the GPUs, without those of the host; the SSD is what comes along.
_GOOGLE = _List(
    "Google Compute Engine, accelerator-optimized machines and their network bandwidth, read 2026-11-28"
)
# The network is InfiniBand where there is any.
_AZURE = _List(
    "Azure virtual machine sizes, read 2026-11-28",
    "Azure on demand, eastus, as listed by github.com/datareceipts/data-receipts 2026-11-09",
)
_AZURE_T4 = replace(_AZURE, server_gpus=4, sockets=1)
_ENTRIES = (
    _AWS.entry("p4d.24xlarge", 8, "a100-40", _CASCADE_LAKE, host=1152, nic=400, ssd=8000, price=21.957642),
    _AWS.entry("p4de.24xlarge", 8, "a100-80", _CASCADE_LAKE, host=1152, nic=400, ssd=8000, price=27.44705),
    _AWS.entry("p5.48xlarge", 8, "h100", _MILAN, host=2048, nic=3200, ssd=30720, price=55.04),
    _AWS.entry("p5en.48xlarge", 8, "h200", _SAPPHIRE_RAPIDS, host=2048, nic=3200, ssd=30720, price=63.296),
    _AWS.entry(
        "p6-b200.48xlarge",
        8,
        "b200",
        _EMERALD_RAPIDS,
        host=2048,
        nic=3200,
        ssd=30720,
        price=113.9328,
        hbm_gib=179,
    ),
    _AWS.entry("g6e.48xlarge", 8, "l40s", _MILAN, host=1536, nic=400, ssd=7600, price=30.13118),
    _AWS.entry("g5.48xlarge", 8, "a10g", _ROME, host=768, nic=100, ssd=7600, price=16.288),
    _AWS.entry("g4dn.metal", 8, "t4", _CASCADE_LAKE, host=384, nic=100, ssd=1800, price=7.824),
    _AWS_SMALL.entry("g6e.12xlarge", 4, "l40s", _MILAN, host=384, nic=100, ssd=3800, price=10.49264),
    _AWS_SMALL.entry("g6e.xlarge", 1, "l40s", _MILAN, host=32, nic=2.5, ssd=250, price=1.861),
    _AWS_SMALL.entry("g5.12xlarge", 4, "a10g", _ROME, host=192, nic=40, ssd=3800, price=5.672),
    _AWS_SMALL.entry("g5.xlarge", 1, "a10g", _ROME, host=16, nic=2.5, ssd=250, price=1.006),
    _AWS_SMALL.entry("g4dn.12xlarge", 4, "t4", _CASCADE_LAKE, host=192, nic=50, ssd=900, price=3.912),
    _AWS_SMALL.entry("g4dn.xlarge", 1, "t4", _CASCADE_LAKE, host=16, nic=5, ssd=125, price=0.526),
    _GOOGLE.entry("a2-highgpu-8g", 8, "a100-40", _CASCADE_LAKE, host=680, nic=100, ssd=0),
    _GOOGLE.entry("a2-ultragpu-8g", 8, "a100-80", _CASCADE_LAKE, host=1360, nic=100, ssd=3000),
    _GOOGLE.entry("a3-highgpu-8g", 8, "h100", _SAPPHIRE_RAPIDS, host=1872, nic=4 * 200, ssd=6000),
    _GOOGLE.entry("a3-megagpu-8g", 8, "h100", _SAPPHIRE_RAPIDS, host=1872, nic=8 * 200, ssd=6000),
    _GOOGLE.entry("a3-ultragpu-8g", 8, "h200", _EMERALD_RAPIDS, host=2952, nic=8 * 400, ssd=12000),
    _GOOGLE.entry("a4-highgpu-8g", 8, "b200", _EMERALD_RAPIDS, host=3968, nic=8 * 400, ssd=12000),
    _AZURE.entry("Standard_ND96asr_v4", 8, "a100-40", _ROME, host=900, nic=8 * 200, ssd=6000),
    _AZURE.entry("Standard_ND96amsr_A100_v4", 8, "a100-80", _ROME, host=1900, nic=8 * 200, ssd=6400),
    _AZURE.entry(
        "Standard_ND96isr_H100_v5",
        8,
        "h100",
        _SAPPHIRE_RAPIDS,
        host=1900,
        nic=8 * 400,
        ssd=28 * 1024,
        price=98.32,
    ),
    _AZURE.entry(
        "Standard_ND96isr_H200_v5", 8, "h200", _SAPPHIRE_RAPIDS, host=1850, nic=8 * 400, ssd=28 * 1024
    ),
    _AZURE_T4.entry("Standard_NC64as_T4_v3", 4, "t4", _ROME, host=440, nic=32, ssd=2816),
    _AZURE_T4.entry("Standard_NC16as_T4_v3", 1, "t4", _ROME, host=110, nic=8, ssd=352),
    _AZURE_T4.entry("Standard_NC8as_T4_v3", 1, "t4", _ROME, host=56, nic=8, ssd=352),
    _AZURE_T4.entry("Standard_NC4as_T4_v3", 1, "t4", _ROME, host=28, nic=8, ssd=176),
)
MACHINES: dict[str, Machine] = {entry.name.lower(): entry for entry in _ENTRIES}
"""The machines by lower-case name."""


@dataclass(frozen=True)
class Catalogue:
    """GPUs (and CPU) and machines, by lower-case name."""

    hardware: Mapping[str, Hardware] = field(default_factory=lambda: HARDWARE)
    machines: Mapping[str, Machine] = field(default_factory=lambda: MACHINES)

    def find(self, name: str) -> Hardware | Machine:
        """Return a machine or the hardware of a rank.

        Raises:
            PlanError: no such entry; the message suggests the nearest one.
        """
        found = self.machines.get(name.lower()) or self.hardware.get(name.lower())
        if found is None:
            raise no_such_entry(name, [*self.hardware, *(machine.name for machine in self.machines.values())])
        return found

    def rank_hardware(self, machine: Machine) -> Hardware:
        """Return what one rank of a machine has.

        Raises:
            PlanError: the machine names a GPU that the catalogue does not have.
        """
        gpu = self.hardware.get(machine.gpu)
        if gpu is None:
            raise no_such_entry(machine.gpu, list(self.hardware))
        return machine.rank_hardware(gpu)


CATALOGUE = Catalogue()
"""What comes along; `jobs.hardware` adds the user's own entries."""
