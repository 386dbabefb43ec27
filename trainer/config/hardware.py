"""Config section `plan.hardware`: the user's own GPUs and machines, or other figures for known ones."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainer.config.base import Section


class LookupConfig(Section):
    """Measured lookups of random ids in one table of fp32 rows."""

    dim: int = Field(ge=1)
    """Columns of the table."""
    table_mib: float = Field(gt=0)
    """Size of its weights: small ones stay in the caches."""
    forward_gbps: float = Field(gt=0)
    """Bytes of rows read, GB/s."""
    forward_bag_ns: float = Field(ge=0)
    """Of each pooled vector, nanoseconds."""
    backward_gbps: float = Field(gt=0)
    """Bytes of rows updated, GB/s, counting a row for each id."""
    backward_bag_ns: float = Field(ge=0)
    """Of each pooled vector, nanoseconds."""


class CollectiveConfig(Section):
    """A measured exchange among all ranks of a launch."""

    kind: Literal["all_to_all", "all_reduce", "reduce_scatter", "all_gather"]
    """Of the collective."""
    ranks: int = Field(ge=1)
    """That took part."""
    nodes: int = Field(default=1, ge=1)
    """That held them."""
    latency_ms: float = Field(ge=0)
    """Of the smallest message."""
    gbps: float = Field(gt=0)
    """Bytes of the larger of a rank's input and output, GB/s."""


class MeasuredConfig(Section):
    """What `shardrec bench hardware` found; every number may be replaced by hand."""

    machine: str
    """What was measured."""
    date: str
    """Of the measurement."""
    step_overhead_ms: float = Field(ge=0)
    """What a sharded collection takes where there is nothing to do, forward and backward."""
    table_overhead_ms: float = Field(ge=0)
    """What each table adds to that."""
    fp32_tflops: float = Field(gt=0)
    """Matrix products as dense layers have them, in fp32."""
    bf16_tflops: float | None = Field(default=None, gt=0)
    """Likewise in bf16; left out, `bf16_tflops` of the entry and `plan.dense_efficiency` count."""
    lookups: list[LookupConfig] = Field(min_length=1)
    """By width and size of table; between them the plan interpolates."""
    collectives: list[CollectiveConfig] = Field(default_factory=list)
    """By kind and ranks; for other numbers of ranks the links count, `nvlink_gbps` and `nic_gbps`."""


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
    ssd_gib: float | None = Field(default=None, ge=0)
    """Local SSD per rank, for the kernel `key_value`."""
    ssd_gbps: float | None = Field(default=None, gt=0)
    """Rate at which it gives single rows, GB/s."""
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
    measured: MeasuredConfig | None = None
    """Measured speeds, which times of a plan take before those above."""


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
    host_memory_gbps: float | None = Field(default=None, gt=0)
    """Bandwidth of that memory, GB/s."""
    nvlink_gbps: float | None = Field(default=None, gt=0)
    """Between two of its GPUs, GB/s per direction."""
    nic_gbps: float | None = Field(default=None, gt=0)
    """Network of the whole machine to others, GB/s per direction."""
    ssd_gib: float | None = Field(default=None, ge=0)
    """Local SSD of the whole machine."""
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
