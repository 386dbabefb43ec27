"""Run a function on several gloo ranks of this machine, for tests.

```python
from tests.support.ranks import run_distributed

def check(rank: int, world_size: int, scale: float) -> float: ...

results = run_distributed(check, 2, 3.0)   # results[rank]
```

The function must be importable by name (module level): ranks are processes of their own.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
from typing import Any


def rank_processes() -> Any:
    """Return a context of `multiprocessing` whose processes are forks of one that has torchrec."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torchrec"])
    return context


class RankError(AssertionError):
    """One or more ranks failed; the message holds each rank's own traceback."""


def run_distributed(
    function: Callable[..., Any],
    world_size: int,
    *args: Any,
    timeout: float = 240.0,
    local_world_size: int | None = None,
) -> list[Any]:
    """Call `function(rank, world_size, *args)` on every rank inside a gloo process group.

    Args:
        function: module-level function.
        world_size: number of processes.
        *args: picklable arguments.
        timeout: seconds for the whole call; then the ranks started here are killed.
        local_world_size: ranks per pretended host (`LOCAL_WORLD_SIZE`); default all.

    Returns:
        What each rank returned, in rank order (picklable; turn tensors into lists or numpy arrays).

    Raises:
        RankError: a rank raised, died, or did not finish in time.
    """
    from torch.distributed import TCPStore

    context = rank_processes()
    # Listens already: a port that is only known to be free may be somebody else's when rank 0 takes it.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    local = local_world_size or world_size
    ranks, pipes = [], []
    for rank in range(world_size):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=_rank_main,
            args=(theirs, function, rank, world_size, local, store.port, timeout, args),
            daemon=True,
        )
        process.start()
        theirs.close()
        ranks.append(process)
        pipes.append(ours)
    try:
        return _collect(pipes, ranks, timeout)
    finally:
        for process in ranks:
            if process.is_alive():
                process.kill()
            process.join()


def _collect(pipes: list[Connection], ranks: list[Any], timeout: float) -> list[Any]:
    """Wait for every rank; after the first failure give the others a moment to tell theirs."""
    deadline = time.monotonic() + timeout
    waiting = set(range(len(pipes)))
    results: list[Any] = [None] * len(pipes)
    failures: dict[int, str] = {}
    while waiting:
        ready = wait_for_any([pipes[rank] for rank in waiting], max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        for rank in [rank for rank in sorted(waiting) if pipes[rank] in ready]:
            waiting.discard(rank)
            ok, value = _receive(pipes[rank], ranks[rank])
            if ok:
                results[rank] = value
            else:
                failures[rank] = value
                deadline = min(deadline, time.monotonic() + 3.0)
    if failures:
        raise RankError("\n".join(f"rank {rank} failed: {text}" for rank, text in sorted(failures.items())))
    if waiting:
        raise RankError(f"ranks {sorted(waiting)} did not finish within {timeout:g} s")
    return results


def _receive(pipe: Connection, process: Any) -> tuple[bool, Any]:
    try:
        ok, value = pipe.recv()
    except EOFError:
        process.join()
        return False, f"died with exit code {process.exitcode}"
    return bool(ok), value


def _rank_main(
    pipe: Connection,
    function: Callable[..., Any],
    rank: int,
    world_size: int,
    local_world_size: int,
    port: int,
    timeout: float,
    args: tuple[Any, ...],
) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",
        TORCHELASTIC_RESTART_COUNT="0",
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK=str(rank % local_world_size),
        LOCAL_WORLD_SIZE=str(local_world_size),
        OMP_NUM_THREADS="1",
    )
    # Gloo would resolve this machine's own name, which not every machine can.
    loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    if loopback:
        os.environ["GLOO_SOCKET_IFNAME"] = loopback[0]
    try:
        import torch
        import torch.distributed as dist

        torch.set_num_threads(1)
        dist.init_process_group("gloo", timeout=timedelta(seconds=max(10.0, min(timeout, 120.0))))
        try:
            pipe.send((True, function(rank, world_size, *args)))
        finally:
            dist.destroy_process_group()
    except BaseException:  # DCP's CheckpointException is no Exception
        pipe.send((False, traceback.format_exc()))
