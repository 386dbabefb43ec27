"""The cluster that a plan is made for, as a person writes it, and as TorchRec's planner reads it."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from torchrec.distributed.planner.types import Topology

from sharding.errors import PlanError
from sharding.hardware import HARDWARE, Hardware, find_hardware
from sharding.machine_memory import memory_bytes
from sharding.machines import CATALOGUE, Catalogue, Machine
from sharding.measured_estimates import MeasuredBandwidths
from sharding.units import GIB

_RANKS = re.compile(r"(\d+)x(\d+)x([^\s+,]+)")
# Not `2x8`: a number is no name.
_MACHINES = re.compile(r"(\d+)x(?!\d+$)([^\s+,]+)")


@dataclass(frozen=True)
class Cluster:
    """Nodes of equal ranks.

    Attributes:
        nodes: hosts.
        gpus_per_node: ranks of a GPU host; 0 for CPU.
        gpu: catalogue name of the GPU; None for CPU.
        ranks_per_node: ranks of a CPU host; default 1.
        hardware: figures that replace the catalogue entry.
        machine: catalogue name of the hosts, where they are machines of it.
    """

    nodes: int = 1
    gpus_per_node: int = 0
    gpu: str | None = None
    ranks_per_node: int | None = None
    hardware: Hardware | None = None
    machine: str | None = None

    def __post_init__(self) -> None:
        if self.gpu is not None:
            object.__setattr__(self, "gpu", self.gpu.lower())
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
    def parse(cls, text: str, catalogue: Catalogue = CATALOGUE) -> Cluster:
        """Read `NODESxRANKSxHARDWARE` or `NODESxMACHINE`: `2x8xh100`, `1x2xcpu`, `2xp5.48xlarge`.

        The name of a machine may look like ranks and hardware (`8xh100`): then it is the machine.

        Args:
            text: what a person wrote.
            catalogue: hardware and machines by name.

        Raises:
            PlanError: another form, or hardware that the catalogue does not have.
        """
        if "+" in text or "," in text:
            raise _unequal_hosts(text, catalogue)
        by_ranks, by_machine = _RANKS.fullmatch(text.strip()), _MACHINES.fullmatch(text.strip())
        is_machine = by_machine is not None and by_machine[2].lower() in catalogue.machines
        if by_ranks is not None and not is_machine:
            return cls._of_ranks(int(by_ranks[1]), int(by_ranks[2]), catalogue.find(by_ranks[3]), text)
        if by_machine is not None:
            return cls._of_machines(int(by_machine[1]), by_machine[2], catalogue, text)
        raise PlanError(
            "a cluster is written NODESxRANKSxHARDWARE or NODESxMACHINE",
            where="--cluster",
            got=text,
            allowed="for instance 2x8xh100, 1x2xcpu or 2xp5.48xlarge",
        )

    @classmethod
    def _of_ranks(cls, nodes: int, ranks: int, entry: Hardware | Machine, text: str) -> Cluster:
        if nodes < 1 or ranks < 1:
            raise PlanError(
                "a cluster needs at least one node and one rank on it", where="--cluster", got=text
            )
        if isinstance(entry, Machine):
            raise PlanError(
                f"a {entry.name} has {entry.gpus} ranks: name the machine alone",
                where="--cluster",
                got=text,
                fixes=[f"--cluster {nodes}x{entry.name}"],
            )
        own = None if HARDWARE.get(entry.name) == entry else entry
        if entry.device == "cpu":
            return cls(nodes=nodes, ranks_per_node=ranks, hardware=own)
        return cls(nodes=nodes, gpus_per_node=ranks, gpu=entry.name, hardware=own)

    @classmethod
    def _of_machines(cls, nodes: int, name: str, catalogue: Catalogue, text: str) -> Cluster:
        machine = catalogue.find(name)
        if isinstance(machine, Hardware):
            raise PlanError(
                f"{machine.name} is no machine: say how many ranks a node has",
                where="--cluster",
                got=text,
                fixes=[
                    f"--cluster {nodes}x8x{machine.name}",
                    *([f"--cluster 1x{nodes}x{machine.name} (all on one node)"] if nodes > 1 else []),
                ],
            )
        return cls(
            nodes=nodes,
            gpus_per_node=machine.gpus,
            gpu=machine.gpu,
            hardware=catalogue.rank_hardware(machine),
            machine=machine.name,
        )

    @classmethod
    def this_machine(cls, ranks: int) -> Cluster:
        """Return CPU ranks that share the memory of the machine that runs this."""
        share = round(memory_bytes() / GIB / ranks, 2)
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

    @property
    def price_per_hour(self) -> float | None:
        """Return the list price of all ranks, USD; None where none is known."""
        price = self.rank_hardware.price_per_hour
        return None if price is None else price * self.world_size

    def with_nodes(self, nodes: int) -> Cluster:
        """Return as many nodes of the same kind."""
        return replace(self, nodes=nodes)

    def part(self, ranks: int) -> Cluster:
        """Return as many neighbouring ranks: whole nodes, or a part of one."""
        nodes, rest = divmod(ranks, self.local_world_size)
        if not rest:
            return self.with_nodes(nodes)
        if self.gpu is None:
            return replace(self, nodes=1, ranks_per_node=ranks)
        return replace(self, nodes=1, gpus_per_node=ranks, machine=None, hardware=self.rank_hardware)

    def __str__(self) -> str:
        if self.machine is not None:
            return f"{self.nodes}x{self.machine}"
        return f"{self.nodes}x{self.local_world_size}x{self.gpu or 'cpu'}"

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-able values, with the figures of one rank spelt out."""
        return {**asdict(self), "hardware": asdict(self.rank_hardware), "name": str(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Cluster:
        """Return the cluster that `as_dict` described."""
        if values["hardware"] is None:
            raise PlanError("the figures of the ranks are missing", where="cluster.hardware", got="null")
        kept = {key: value for key, value in values.items() if key not in ("name", "hardware")}
        figures = Hardware.from_record(values["hardware"])
        return cls(**kept, hardware=None if HARDWARE.get(figures.name) == figures else figures)


def topology(
    cluster: Cluster,
    *,
    memory_left_bytes: int | None = None,
    host_left_bytes: int | None = None,
    ssd_left_bytes: int | None = None,
) -> Topology:
    """Describe a cluster to TorchRec's planner. Needs neither CUDA nor a process group.

    Args:
        cluster: the cluster.
        memory_left_bytes: memory for tables on each rank, where they live by default; default all of it.
        host_left_bytes: host memory for tables on each GPU rank; default all of it.
        ssd_left_bytes: SSD for tables on each GPU rank; default all of it.
    """
    figures = cluster.rank_hardware
    memory = int(figures.memory_gib * GIB) if memory_left_bytes is None else memory_left_bytes
    host = int(figures.host_memory_gib * GIB) if host_left_bytes is None else host_left_bytes
    ssd = int(figures.ssd_gib * GIB) if ssd_left_bytes is None else ssd_left_bytes
    on_gpu = figures.device == "cuda"
    return Topology(
        world_size=cluster.world_size,
        local_world_size=cluster.local_world_size,
        compute_device=figures.device,
        hbm_cap=max(0, memory) if on_gpu else None,
        ddr_cap=max(0, host if on_gpu else memory),
        ssd_cap=max(0, ssd) if on_gpu else 0,
        hbm_mem_bw=_bytes_per_ms(figures.hbm_gbps or figures.host_memory_gbps),
        ddr_mem_bw=_bytes_per_ms(figures.host_memory_gbps),
        hbm_to_ddr_mem_bw=_bytes_per_ms(figures.pcie_gbps),
        ssd_mem_bw=_bytes_per_ms(figures.ssd_gbps),
        intra_host_bw=_bytes_per_ms(figures.nvlink_gbps),
        inter_host_bw=_bytes_per_ms(figures.nic_gbps),
        generalized_comms_bandwidths=None if figures.measured is None else MeasuredBandwidths(figures),
    )


def _unequal_hosts(text: str, catalogue: Catalogue) -> PlanError:
    """Return the error for hosts of several kinds; hosts with equally many ranks have a way out."""
    parts = [part.strip() for part in re.split(r"[+,]", text)]
    fixes = ["plan for the hosts of one kind alone"]
    try:
        # `8xh100` is one host of eight ranks here.
        kinds = [
            Cluster.parse(part if _names_hosts(part, catalogue) else f"1x{part}", catalogue) for part in parts
        ]
    except PlanError as error:
        fixes += [f"{error.got}: {fix}" for fix in error.fixes]
    else:
        weakest = min(kinds, key=lambda kind: (kind.rank_hardware.memory_gib, kind.rank_hardware.bf16_tflops))
        if len({kind.local_world_size for kind in kinds}) == 1:
            nodes = sum(kind.nodes for kind in kinds)
            fixes.insert(0, f"plan as if all were the smallest: --cluster {weakest.with_nodes(nodes)}")
    return PlanError(
        "all hosts of a cluster must be of one kind, with the same number of ranks",
        where="--cluster",
        got=text,
        allowed="for instance 2x8xh100",
        fixes=fixes,
    )


def _names_hosts(text: str, catalogue: Catalogue) -> bool:
    """Return whether a number of hosts comes first."""
    machine = _MACHINES.fullmatch(text)
    named = machine is not None and machine[2].lower() in catalogue.machines
    return named or _RANKS.fullmatch(text) is not None


def _bytes_per_ms(gigabytes_per_second: float) -> float:
    return gigabytes_per_second * 1e6
