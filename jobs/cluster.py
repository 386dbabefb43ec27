"""Where a verb runs: the shape of the cluster and the way to its ranks."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from sharding import topology
from sharding.errors import UserError
from sharding.hardware import HARDWARE, Hardware, find_hardware
from sharding.units import GIB

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

On = Literal["process", "local", "spark", "torchrun"]
_REGISTER_SECONDS = 60.0


@dataclass(frozen=True)
class Cluster(topology.Cluster):
    """Hosts, ranks and GPUs, and how ranks are started on them.

    Attributes:
        on: `process` (this process, one rank), `local` (TorchDistributor on this host), `spark`
            (TorchDistributor on the executors), `torchrun`.
        spark: session that `local` and `spark` use; made when None.
    """

    on: On = "process"
    spark: Any = field(default=None, compare=False, repr=False)

    @classmethod
    def local(
        cls, ranks: int = 1, on: On | None = None, device: Literal["auto", "cpu", "cuda"] = "auto"
    ) -> Cluster:
        """Return ranks on this host, or those that torchrun has started on hosts like this one.

        Args:
            ranks: how many.
            on: default `process` for one rank, `local` for several.
            device: `auto` takes the GPUs where torch sees some.

        Raises:
            UserError: a GPU host has fewer GPUs than ranks.
        """
        start: On = on or ("process" if ranks == 1 else "local")
        here = _ranks_here(ranks, start)
        # Where hosts hold different numbers of ranks, `sharding.hosts` tells each rank that it is alone.
        per_node = here if ranks % here == 0 else 1
        nodes = ranks // per_node
        gpu = None if device == "cpu" else _gpu_of_this_machine()
        if gpu is not None:
            _check_gpus(here)
            return cls(nodes=nodes, gpus_per_node=per_node, gpu=gpu.name, hardware=gpu, on=start)
        if device == "cuda":
            raise UserError("this host has no usable GPU", where="device", got="cuda", allowed="cpu")
        shape = topology.Cluster.this_machine(here)
        return cls(nodes=nodes, ranks_per_node=per_node, hardware=shape.hardware, on=start)

    @classmethod
    def from_spark(
        cls,
        spark: SparkSession,
        ranks: int | None = None,
        gpu: str | Hardware | None = None,
        ranks_per_host: int | None = None,
    ) -> Cluster:
        """Return the executors of a Spark session, one rank per slot (or `ranks` of them).

        Args:
            spark: the session.
            ranks: default every slot. Waits until the executors have registered, unless `ranks_per_host`
                is given as well.
            gpu: catalogue name or figures of the executors' GPUs, when tasks ask for GPUs; None for CPU
                ranks.
            ranks_per_host: ranks that share a host; default what the executors' hosts tell, else 1. GPU ranks
                need the true number; so do CPU ranks for the sharding types inside a host.

        Raises:
            UserError: no executor has registered, its GPU settings cannot work, or `ranks_per_host` does not
                divide the ranks.
        """
        entry = find_hardware(gpu) if isinstance(gpu, str) else gpu
        device = "cpu" if entry is None else "cuda"
        count, per_host = _count_ranks(spark, device, ranks, ranks_per_host)
        _check_ranks_per_host(count, per_host)
        nodes = count // per_host
        if entry is not None:
            own = None if HARDWARE.get(entry.name) == entry else entry
            return cls(
                nodes=nodes, gpus_per_node=per_host, gpu=entry.name, hardware=own, on="spark", spark=spark
            )
        return cls(nodes=nodes, ranks_per_node=per_host, on="spark", spark=spark)

    def shape(self) -> topology.Cluster:
        """Return hosts, ranks and GPUs alone: what a plan is made for."""
        return topology.Cluster(**{item.name: getattr(self, item.name) for item in fields(topology.Cluster)})


def _ranks_here(ranks: int, on: On) -> int:
    """Return how many of the ranks this host holds: all of them, unless torchrun says otherwise."""
    from jobs.launch import torchrun_rank

    if on == "torchrun" and torchrun_rank() is not None:
        return int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
    return max(1, ranks)


def _count_ranks(
    spark: SparkSession, device: str, ranks: int | None, per_host: int | None
) -> tuple[int, int]:
    """Return the ranks, and how many of them share a host; ask Spark for what is not given."""
    from jobs.ranks.gpus import ranks_per_task
    from jobs.ranks.slots import even_ranks_per_host, settled_slots
    from jobs.ranks.streams import screen

    if ranks is not None and per_host is not None:
        return ranks, per_host
    per_task = ranks_per_task(spark, device, ranks)
    with screen() as stream:
        slots = settled_slots(spark, _REGISTER_SECONDS, stream, per_task)
    count = slots if ranks is None else ranks
    if count is None:
        raise UserError(
            "Spark does not tell how many slots its executors have (Spark Connect)",
            where="--ranks",
            got="no number of ranks",
            fixes=["say how many ranks to start: --ranks N, or Cluster.from_spark(spark, ranks=N)"],
        )
    if per_host is None:
        per_host = even_ranks_per_host(spark, count, per_task) or 1
    return count, per_host


def _check_ranks_per_host(ranks: int, per_host: int) -> None:
    if ranks < 1:
        raise UserError("a cluster needs at least one rank", where="ranks", got=ranks)
    if per_host < 1 or ranks % per_host:
        raise UserError(
            "every host must hold the same number of ranks",
            where="ranks_per_host",
            got=f"{per_host} a host, {ranks} ranks",
            allowed=[number for number in range(1, ranks + 1) if ranks % number == 0],
            fixes=[f"ranks={max(1, ranks // per_host) * per_host}"] if per_host > 0 else [],
        )


def _check_gpus(ranks: int) -> None:
    import torch

    gpus = torch.cuda.device_count()
    if ranks > gpus:
        raise UserError(
            "this host has fewer GPUs than ranks, and each rank takes one",
            where="--ranks",
            got=f"{ranks} ranks, {gpus} GPUs",
            allowed=f"1 to {gpus} ranks",
            fixes=[f"--ranks {gpus}", f'CPU ranks: Cluster.local({ranks}, device="cpu")'],
        )


def _gpu_of_this_machine() -> Any:
    """Return the catalogue entry of the GPU here with its true memory, or None without CUDA."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    words = properties.name.lower().replace("-", " ").split()
    known = [name for name in HARDWARE if name.split("-")[0] in words]
    memory_gib = properties.total_memory / GIB
    nearest = min(known or ["a10g"], key=lambda name: abs(find_hardware(name).hbm_gib - memory_gib))
    return replace(find_hardware(nearest), hbm_gib=round(memory_gib, 2), source="this machine's driver")
