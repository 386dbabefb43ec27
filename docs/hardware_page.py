"""The reference page of the hardware catalogue, for docs/generate.py."""

from __future__ import annotations

from sharding.hardware import HARDWARE
from sharding.machines import MACHINES

HARDWARE_INTRO = """# Hardware catalogue

What `shardrec plan --cluster` knows by name. Figures are those of data sheets, for one rank: a GPU with its
share of the host, or a share of a CPU host. Links are per direction. Memory of a GPU is its nominal size,
less what ECC takes of GDDR memory; programs see slightly less. Bandwidth of host memory is sockets x channels
x speed / GPUs. SSDs are the local drives; the rate at which they give single rows is a guess, the one that
TorchRec's planner takes. [`plan.hardware`](config.md#planhardware) replaces every figure and adds entries;
[planning](planning.md#hardware-and-prices) shows how. `shardrec bench hardware`
[measures](planning.md#calibrate) an entry for the machine that it runs on.
"""

MACHINES_INTRO = """
## Machines

Host memory, network and SSD are those of the whole machine; its other figures are those of the GPU's entry.
Bandwidth of host memory is what all channels of the server move by the data sheet of its processors; a
machine that is a part of a server is taken to have its GPUs' share, a guess.
The network is that of the GPUs' own NICs where they have some, and without the bursts of small machines.
Where no price is shown, [`plan.hardware.machines`](config.md#planhardwaremachinesglob) can give one.
"""


def hardware_page() -> str:
    """Return docs/hardware.md, without the notice above it."""
    ranks = [
        f"| `{name}` | {r.hbm_gib:g} | {r.hbm_gbps:,g} | {r.host_memory_gib:g} | {r.host_memory_gbps:g} "
        f"| {r.pcie_gbps:g} | {r.nvlink_gbps:g} | {r.nic_gbps:g} | {r.fp32_tflops:g} | {r.bf16_tflops:,g} "
        f"| {r.ssd_gib:,g} | {r.ssd_gbps:g} "
        f"| {cell(r.source)} |"
        for name, r in HARDWARE.items()
    ]
    machines = [
        f"| `{m.name}` | {m.gpus} x `{m.gpu}` | {m.hbm_gib or HARDWARE[m.gpu].hbm_gib:g} "
        f"| {m.host_memory_gib:,g} | {m.host_memory_gbps:,g} | {m.nvlink_gbps:g} | {m.nic_gbps:g} "
        f"| {m.ssd_gib:,g} "
        f"| {'' if m.price_per_hour is None else f'{m.price_per_hour:.2f}'} "
        f"| {cell(m.source.replace(f': {m.name};', ';'))} |"
        for m in MACHINES.values()
    ]
    sources = sorted({m.price_source for m in MACHINES.values() if m.price_source})
    return "\n".join(
        [
            HARDWARE_INTRO,
            "| name | HBM GiB | HBM GB/s | host GiB | host GB/s | PCIe GB/s | NVLink GB/s | NIC GB/s "
            "| fp32 TFLOPS | bf16 TFLOPS | SSD GiB | SSD GB/s | source |",
            f"|---|{'---:|' * 11}---|",
            *ranks,
            MACHINES_INTRO,
            "| name | GPUs | HBM GiB each | host GiB | host GB/s | NVLink GB/s | NIC GB/s | SSD GiB "
            "| USD an hour | source |",
            f"|---|---|{'---:|' * 7}---|",
            *machines,
            "",
            *(f"Prices: {source}.\n" for source in sources),
        ]
    )


def cell(text: str) -> str:
    """Return a text that may stand in a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
