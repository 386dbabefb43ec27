"""How ranks find each other and learn which of them share a host.

TorchDistributor starts one torchrun agent per Spark task, with one rank or, from pyspark 4.2 on, one for each
GPU of the task. So `LOCAL_RANK` and `LOCAL_WORLD_SIZE` tell of the task and not of the host, and Spark deals
the tasks of a stage round robin over the executors. TorchRec's node-aware sharding types need the truth, and
need the ranks of a host to be neighbours; so the ranks tell each other their host names before the process
group is made, are numbered host by host, and each exports what it has learnt.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from sharding.errors import ShardrecError, UserError
from sharding.machine_cores import available_cores
from sharding.network import use_reachable_interface

_EXPORTED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


class RankJoinError(ShardrecError):
    """Some ranks never came to the meeting point."""


def _never() -> bool:
    return False


@dataclass(frozen=True)
class RankContext:
    """One rank among the others.

    Attributes:
        rank: number among all ranks; the ranks of one host are neighbours.
        world_size: ranks in all.
        local_rank: number among the ranks of this host.
        local_world_size: ranks of this host. On hosts that hold different numbers of ranks this is 1 and
            `local_rank` 0 everywhere, because TorchRec's node groups must be equally large.
        host: host name.
        device: where this rank computes.
        stop_requested: tells whether someone asked the run to save a checkpoint and stop.
        host_ranks: name and number of ranks of each host.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    host: str
    device: torch.device
    stop_requested: Callable[[], bool] = _never
    host_ranks: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Seat:
    """Where a rank runs, as it tells the others.

    Attributes:
        host: host name.
        machine: boot id of the kernel: two machines may both be called `localhost`.
        visible_gpus: `CUDA_VISIBLE_DEVICES`: ranks of one host may see the same GPUs or one each.
    """

    host: str
    machine: str = ""
    visible_gpus: str = ""


@dataclass(frozen=True)
class Place:
    """What a rank learns from all seats.

    Attributes:
        rank: number counted host by host.
        local_rank: number among the ranks of the host.
        local_world_size: ranks of the host.
        gpu: number of the rank's GPU among those that it sees.
        host_ranks: name and number of ranks of each host.
    """

    rank: int
    local_rank: int
    local_world_size: int
    gpu: int
    host_ranks: tuple[tuple[str, int], ...]

    @property
    def even(self) -> bool:
        """Return whether every host holds equally many ranks."""
        return len({count for _, count in self.host_ranks}) == 1


def join_ranks(
    device: torch.device | str = "auto", timeout_seconds: float = 120, *, alone: bool = False
) -> RankContext:
    """Join the process group that torchrun or TorchDistributor has prepared, and learn who shares this host.

    Exports `RANK`, `WORLD_SIZE`, `LOCAL_RANK` and `LOCAL_WORLD_SIZE` for TorchRec, and gives this rank its
    share of the host's cores.

    Args:
        device: `cpu` (gloo), `cuda` (NCCL), or `auto` for CUDA where there is one.
        timeout_seconds: how long to wait for the other ranks, now and in every collective.
        alone: be the only rank, without any launcher or network.

    Raises:
        UserError: no launcher has set `RANK` and the like, or a host has fewer GPUs than ranks.
        RankJoinError: a rank did not come in time.
    """
    kind = _device_type(device)
    timeout = timedelta(seconds=timeout_seconds)
    number, world_size = (0, 1) if alone else _launched_as()
    seat = Seat(socket.gethostname(), _boot_id(), os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    store = HashStore() if alone else _meeting_point(timeout)
    seats = exchange_seats(store, number, world_size, seat, timeout)
    place = arrange(seats, number)
    torch.set_num_threads(max(1, available_cores() // place.local_world_size))
    chosen = _own_device(kind, place, seat)
    if kind == "cpu" and len({(other.host, other.machine) for other in seats}) > 1:
        others = sorted({other.host for other in seats} - {seat.host})
        use_reachable_interface([os.environ["MASTER_ADDR"], *others])
    local_rank, local_world_size = (place.local_rank, place.local_world_size) if place.even else (0, 1)
    values = (place.rank, world_size, local_rank, local_world_size)
    os.environ.update({name: str(value) for name, value in zip(_EXPORTED, values, strict=True)})
    dist.init_process_group(
        "nccl" if kind == "cuda" else "gloo",
        store=PrefixStore("shardrec", store),
        rank=place.rank,
        world_size=world_size,
        timeout=timeout,
        device_id=chosen if kind == "cuda" else None,
    )
    return RankContext(
        place.rank,
        world_size,
        local_rank,
        local_world_size,
        seat.host,
        chosen,
        host_ranks=place.host_ranks,
    )


def leave_ranks() -> None:
    """Destroy the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def restored_process() -> Iterator[None]:
    """Give environment variables and torch's settings back as they were, for a rank in a user's process."""
    environment, threads = dict(os.environ), torch.get_num_threads()
    precision = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)


def exchange_seats(store: Store, number: int, world_size: int, seat: Seat, timeout: timedelta) -> list[Seat]:
    """Tell the other ranks one's seat and return all seats, in the launcher's order.

    Raises:
        RankJoinError: some rank did not tell its seat in time.
    """
    store.set(f"seat/{number}", json.dumps(asdict(seat)))
    keys = [f"seat/{other}" for other in range(world_size)]
    try:
        store.wait(keys, timeout)
    except (dist.DistStoreError, dist.DistNetworkError, RuntimeError) as error:
        missing = [other for other, key in enumerate(keys) if not _present(store, key)]
        raise RankJoinError(
            f"{len(missing)} of {world_size} ranks did not join within {timeout.total_seconds():g} s",
            where=f"rank {number} on host {seat.host}",
            got=f"missing: {', '.join(f'rank {other}' for other in missing)}",
            fixes=[
                "look into the logs of the missing ranks",
                "raise train.process_group_timeout_seconds where hosts start slowly",
            ],
        ) from error
    return [Seat(**json.loads(store.get(key))) for key in keys]


def arrange(seats: Sequence[Seat], number: int) -> Place:
    """Number the ranks host by host and return the place of one.

    Args:
        seats: of all ranks, in the launcher's order.
        number: the launcher's number of the rank in question.
    """
    hosts: dict[tuple[str, str], list[int]] = {}
    for other, seat in enumerate(seats):
        hosts.setdefault((seat.host, seat.machine), []).append(other)
    order = [other for members in hosts.values() for other in members]
    own = seats[number]
    members = hosts[(own.host, own.machine)]
    same_gpus = [other for other in members if seats[other].visible_gpus == own.visible_gpus]
    return Place(
        rank=order.index(number),
        local_rank=members.index(number),
        local_world_size=len(members),
        gpu=same_gpus.index(number),
        host_ranks=tuple((host, len(group)) for (host, _), group in hosts.items()),
    )


def _device_type(device: torch.device | str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = torch.device(device).type
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "this host has no usable GPU",
            where=f"host {socket.gethostname()}",
            got=f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', '')!r}",
            fixes=["train on the CPU", "check the driver with nvidia-smi on that host"],
        )
    return kind


def _own_device(kind: str, place: Place, seat: Seat) -> torch.device:
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if place.gpu >= count:
        raise UserError(
            "more ranks than GPUs on a host",
            where=f"host {seat.host}",
            got=f"{place.local_world_size} ranks",
            allowed=f"{count} GPUs",
            fixes=[f"start {count} ranks on each host"],
        )
    device = torch.device("cuda", place.gpu)
    torch.cuda.set_device(device)
    return device


def _launched_as() -> tuple[int, int]:
    missing = [n for n in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if n not in os.environ]
    if missing:
        raise UserError(
            "this process was not started as a rank",
            got=f"{', '.join(missing)} not set",
            fixes=["start it with torchrun", "train in one process: --on process"],
        )
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def _meeting_point(timeout: timedelta) -> Store:
    """Return the key-value store that the launcher has set up, or that rank 0 sets up."""
    store: Store
    try:
        store, _, _ = next(rendezvous("env://", timeout=timeout))
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise RankJoinError(
            f"the ranks could not meet within {timeout.total_seconds():g} s",
            where=f"host {socket.gethostname()}",
            got=f"{address}: {str(error).splitlines()[0]}",
            fixes=[
                f"check that {address} can be reached from this host (firewall, names in /etc/hosts)",
                "look into the logs of the other ranks",
            ],
        ) from error
    store.set_timeout(timeout)
    return store


def _present(store: Store, key: str) -> bool:
    try:
        return bool(store.check([key]))
    except RuntimeError:
        return False


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
