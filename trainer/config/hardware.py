"""Config section `plan.hardware`: the user's own GPUs and machines, or other figures for known ones."""

from __future__ import annotations

from pydantic import Field

from trainer.config.base import Section


class GpuConfig(Section):
    """Figures of a GPU with its share of the host; those left out are the catalogue's."""

    like: str | None = None
    """Catalogue entry that gives the other figures of a new one, for instance `h100`."""
    hbm_gib: float | None = Field(default=None, ge=0)
    """Memory of the GPU that programs see."""
    hbm_gbps: float | None = Field(default=None, gt=0)
    """Peak bandwidth of that memory, GB/s."""
    host_memory_gib: float | None = Field(default=None, gt=0)
    """Host memory per rank."""
    host_memory_gbps: float | None = Field(default=None, gt=0)
    """Bandwidth of host memory per rank, GB/s."""
    pcie_gbps: float | None = Field(default=None, gt=0)
    """Host to GPU, GB/s."""
    nvlink_gbps: float | None = Field(default=None, gt=0)
    """Between two ranks of one node, GB/s per direction."""
    nic_gbps: float | None = Field(default=None, gt=0)
    """Network of one rank to other nodes, GB/s per direction."""
    fp32_tflops: float | None = Field(default=None, gt=0)
    """Peak of matrix products in fp32."""
    bf16_tflops: float | None = Field(default=None, gt=0)
    """Peak of matrix products in bf16."""
    price_per_hour: float | None = Field(default=None, ge=0)
    """Of one rank, USD."""
    price_source: str | None = None
    """Whose price, where and when."""
    source: str | None = None
    """Where the figures are from."""


class MachineConfig(Section):
    """Figures of a machine; those left out are the catalogue's, or for a new machine those of its GPU."""

    gpu: str | None = None
    """Catalogue name of its GPUs; a new machine needs it."""
    gpus: int | None = Field(default=None, ge=1)
    """Their number; a new machine needs it."""
    hbm_gib: float | None = Field(default=None, gt=0)
    """Memory of one GPU that programs see."""
    host_memory_gib: float | None = Field(default=None, gt=0)
    """Of the whole machine."""
    nvlink_gbps: float | None = Field(default=None, gt=0)
    """Between two of its GPUs, GB/s per direction."""
    nic_gbps: float | None = Field(default=None, gt=0)
    """Network of the whole machine to others, GB/s per direction."""
    price_per_hour: float | None = Field(default=None, ge=0)
    """Of the whole machine, USD."""
    price_source: str | None = None
    """Whose price, where and when."""
    source: str | None = None
    """Where the figures are from."""


class HardwareConfig(Section):
    """Entries beside and in place of the hardware catalogue; the file of `plan --hardware` has this form."""

    gpus: dict[str, GpuConfig] = Field(default_factory=dict)
    """By name; `cpu` is the entry of CPU ranks."""
    machines: dict[str, MachineConfig] = Field(default_factory=dict)
    """By name."""
