"""The cluster that a plan is made for, as a person writes it, and as TorchRec's planner reads it."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from torchrec.distributed.planner.types import Topology

from sharding.errors import PlanError
from sharding.hardware import HARDWARE, Hardware, find_hardware
from sharding.units import GIB

_PATTERN = re.compile(r"^(\d+)x(\d+)x([A-Za-z0-9_.-]+)$")


@dataclass(frozen=True)
class Cluster:
    """Nodes of equal ranks.

    Attributes:
        nodes: hosts.
        gpus_per_node: ranks of a GPU host; 0 for CPU.
        gpu: catalogue name of the GPU; None for CPU.
        ranks_per_node: ranks of a CPU host; default 1.
        hardware: figures that replace the catalogue entry.
    """

    nodes: int = 1
    gpus_per_node: int = 0
    gpu: str | None = None
    ranks_per_node: int | None = None
    hardware: Hardware | None = None

    def __post_init__(self) -> None:
        if (self.gpu is None) != (self.gpus_per_node == 0):
            raise PlanError(
                "a GPU cluster needs both `gpu` and `gpus_per_node`",
                where="cluster",
                got=f"gpu={self.gpu!r}, gpus_per_node={self.gpus_per_node}",
            )
        if self.gpu is not None and self.ranks_per_node not in (None, self.gpus_per_node):
            raise PlanError(
                "a GPU node runs one rank for each GPU",
                where="cluster.ranks_per_node",
                got=self.ranks_per_node,
                allowed=self.gpus_per_node,
            )
        if self.nodes < 1 or self.local_world_size < 1:
            raise PlanError(
                "a cluster needs at least one node and one rank on it", where="cluster", got=str(self)
            )
        if self.gpu is not None and self.rank_hardware.device != "cuda":
            raise PlanError("`gpu` names a CPU entry", where="cluster.gpu", got=self.gpu)

    @classmethod
    def parse(cls, text: str) -> Cluster:
        """Read `NODESxRANKSxHARDWARE`, for instance `2x8xh100` or `1x2xcpu`.

        Raises:
            PlanError: another form, or hardware that the catalogue does not have.
        """
        match = _PATTERN.match(text.strip())
        if match is None:
            raise PlanError(
                "a cluster is written NODESxRANKSxHARDWARE",
                where="--cluster",
                got=text,
                allowed="for instance 2x8xh100 or 1x2xcpu",
            )
        nodes, ranks = int(match[1]), int(match[2])
        entry = find_hardware(match[3])
        if nodes < 1 or ranks < 1:
            raise PlanError(
                "a cluster needs at least one node and one rank on it", where="--cluster", got=text
            )
        if entry.device == "cpu":
            return cls(nodes=nodes, ranks_per_node=ranks)
        return cls(nodes=nodes, gpus_per_node=ranks, gpu=entry.name)

    @classmethod
    def this_machine(cls, ranks: int) -> Cluster:
        """Return CPU ranks that share the memory of the machine that runs this."""
        memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
        share = round(memory_gib / ranks, 2)
        figures = replace(
            find_hardware("cpu"), host_memory_gib=share, source="memory of this machine; speeds as in `cpu`"
        )
        return cls(ranks_per_node=ranks, hardware=figures)

    @property
    def local_world_size(self) -> int:
        """Return the ranks of one node."""
        if self.gpu is not None:
            return self.gpus_per_node
        return 1 if self.ranks_per_node is None else self.ranks_per_node

    @property
    def world_size(self) -> int:
        """Return the ranks of all nodes."""
        return self.nodes * self.local_world_size

    @property
    def device(self) -> Literal["cuda", "cpu"]:
        """Return where tables and dense layers live."""
        return self.rank_hardware.device

    @property
    def rank_hardware(self) -> Hardware:
        """Return the figures of one rank."""
        return self.hardware or find_hardware(self.gpu or "cpu")

    def __str__(self) -> str:
        return f"{self.nodes}x{self.local_world_size}x{self.gpu or 'cpu'}"

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-able values, with the figures of one rank spelt out."""
        return {**asdict(self), "hardware": asdict(self.rank_hardware), "name": str(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Cluster:
        """Return the cluster that `as_dict` described."""
        kept = {key: value for key, value in values.items() if key not in ("name", "hardware")}
        figures = Hardware(**values["hardware"])
        return cls(**kept, hardware=None if HARDWARE.get(figures.name) == figures else figures)


def topology(
    cluster: Cluster, *, memory_left_bytes: int | None = None, host_left_bytes: int | None = None
) -> Topology:
    """Describe a cluster to TorchRec's planner. Needs neither CUDA nor a process group.

    Args:
        cluster: the cluster.
        memory_left_bytes: memory for tables on each rank, where they live by default; default all of it.
        host_left_bytes: host memory for tables on each GPU rank; default all of it.
    """
    figures = cluster.rank_hardware
    memory = int(figures.memory_gib * GIB) if memory_left_bytes is None else memory_left_bytes
    host = int(figures.host_memory_gib * GIB) if host_left_bytes is None else host_left_bytes
    on_gpu = figures.device == "cuda"
    return Topology(
        world_size=cluster.world_size,
        local_world_size=cluster.local_world_size,
        compute_device=figures.device,
        hbm_cap=max(0, memory) if on_gpu else None,
        ddr_cap=max(0, host if on_gpu else memory),
        hbm_mem_bw=_bytes_per_ms(figures.hbm_gbps or figures.host_memory_gbps),
        ddr_mem_bw=_bytes_per_ms(figures.host_memory_gbps),
        hbm_to_ddr_mem_bw=_bytes_per_ms(figures.pcie_gbps),
        intra_host_bw=_bytes_per_ms(figures.nvlink_gbps),
        inter_host_bw=_bytes_per_ms(figures.nic_gbps),
    )


def _bytes_per_ms(gigabytes_per_second: float) -> float:
    return gigabytes_per_second * 1e6
