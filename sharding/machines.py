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
            nvlink_gbps=self.nvlink_gbps,
            nic_gbps=self.nic_gbps / self.gpus,
            ssd_gib=self.ssd_gib / self.gpus,
            source=f"{self.source}; GPU: {gpu.source}",
            price_per_hour=None if self.price_per_hour is None else self.price_per_hour / self.gpus,
            price_source=self.price_source,
        )


_AWS_PRICES = (
    "Amazon EC2 on demand, Linux, us-east-1 (N. Virginia), as listed by instances.vantage.sh 2026-08-26"
)


def _ec2(
    name: str,
    gpu: str,
    *,
    host: float,
    links: tuple[float, float],
    ssd_gb: float,
    price: float,
    hbm_gib: float | None = None,
) -> Machine:
    """Build an entry of 8 GPUs from host memory (GiB), (NVLink, network) in GB/s, SSD in GB, USD per hour."""
    source = f"Amazon EC2 instance types: {name}"
    return Machine(name, gpu, 8, host, *links, source, price, _AWS_PRICES, hbm_gib, round(ssd_gb * 1e9 / GIB))


_ENTRIES = (
    _ec2("p4d.24xlarge", "a100-40", host=1152, links=(300, 50), ssd_gb=8000, price=21.957642),
    _ec2("p4de.24xlarge", "a100-80", host=1152, links=(300, 50), ssd_gb=8000, price=27.44705),
    _ec2("p5.48xlarge", "h100", host=2048, links=(450, 400), ssd_gb=30720, price=55.04),
    _ec2("p5en.48xlarge", "h200", host=2048, links=(450, 400), ssd_gb=30720, price=63.296),
    _ec2("p6-b200.48xlarge", "b200", host=2048, links=(900, 400), ssd_gb=30720, price=113.9328, hbm_gib=179),
    _ec2("g6e.48xlarge", "l40s", host=1536, links=(32, 50), ssd_gb=7600, price=30.13118),
    _ec2("g5.48xlarge", "a10g", host=768, links=(32, 12.5), ssd_gb=7600, price=16.288),
    _ec2("g4dn.metal", "t4", host=384, links=(16, 12.5), ssd_gb=1800, price=7.824),
)
MACHINES: dict[str, Machine] = {entry.name: entry for entry in _ENTRIES}
"""The machines by name."""


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
            raise no_such_entry(name, [*self.hardware, *self.machines])
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
