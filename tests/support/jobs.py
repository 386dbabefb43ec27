"""Tiny jobs for the launcher's tests; ranks import them by name."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from sharding.errors import PlanError
from sharding.hosts import RankContext


def tell(run_folder: Path, context: RankContext) -> None:
    """Print on every channel, and leave behind what this rank knows about itself."""
    print(f"hello from python {context.rank}")
    os.write(1, b"hello from a descriptor\n")
    libc = ctypes.CDLL(None)
    libc.puts(b"hello from c")
    sys.stderr.write("hello from stderr\n")
    total = torch.tensor([float(context.rank + 1)])
    dist.all_reduce(total)
    values = {
        "rank": context.rank,
        "world_size": context.world_size,
        "local_rank": context.local_rank,
        "local_world_size": context.local_world_size,
        "host": context.host,
        "device": str(context.device),
        "total": float(total),
        "threads": torch.get_num_threads(),
        "backend": dist.get_backend(),
        "environment": {name: os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")},
        "pid": os.getpid(),
        "folder": os.getcwd(),
    }
    write(run_folder, context, values)


def fail_with_value_error(run_folder: Path, context: RankContext) -> None:
    """Rank 1 (or the only one) raises; the others wait for it in a collective."""
    if context.rank == context.world_size - 1:
        print("about to divide the batch")
        raise ValueError("boom in the last rank")
    dist.barrier()


def fail_with_user_error(run_folder: Path, context: RankContext) -> None:
    """Raise the same user error on every rank."""
    raise PlanError(
        "the tables do not fit", where="tables.user", got=7, allowed=["a", "b"], fixes=["--nodes 2"]
    )


def exit_silently(run_folder: Path, context: RankContext) -> None:
    """The last rank leaves without a word."""
    if context.rank == context.world_size - 1:
        print("last words of the leaver")
        os._exit(3)
    dist.barrier()


def kill_itself(run_folder: Path, context: RankContext) -> None:
    """The last rank is killed as the out-of-memory killer does."""
    if context.rank == context.world_size - 1:
        print("last words of the killed")
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def fail_after_rank_0_has_finished(run_folder: Path, context: RankContext) -> None:
    """Rank 0 is done at once; the last rank raises later."""
    if context.rank != 0:
        time.sleep(2.0)
        raise ValueError("late boom")


def until_stopped(run_folder: Path, context: RankContext) -> str:
    """Step until some rank was asked to stop, then save a checkpoint, slowly."""
    write(run_folder, context, {"pid": os.getpid(), "parent": os.getppid()})
    for _ in range(2000):
        asked = torch.tensor([float(context.stop_requested())])
        dist.all_reduce(asked)
        if asked.item():
            time.sleep(1.5)
            (run_folder / f"checkpoint_{context.rank}").write_text("whole")
            return "stopped"
        time.sleep(0.05)
    return "finished"


def step_for_ever(run_folder: Path, context: RankContext) -> None:
    """Never heed anything."""
    write(run_folder, context, {"pid": os.getpid(), "parent": os.getppid()})
    while True:
        time.sleep(0.1)


def write_metrics(run_folder: Path, context: RankContext) -> None:
    """Write records as training does."""
    if context.rank == 0:
        with (run_folder / "metrics.jsonl").open("a") as file:
            for record in (
                {"kind": "start", "step": 0, "first_step": 0, "total_steps": 20, "time": 100.0},
                {"kind": "train", "step": 20, "loss": 0.5, "samples_per_second": 1234.0, "time": 110.0},
                {"kind": "evaluation", "step": 20, "epoch": 1, "auc": 0.75, "time": 111.0},
            ):
                file.write(json.dumps(record) + "\n")
    dist.barrier()


def write(run_folder: Path, context: RankContext, values: dict[str, Any]) -> None:
    """Leave values behind under this rank's number."""
    folder = run_folder / "out"
    folder.mkdir(exist_ok=True)
    temporary = folder / f".{context.rank}.tmp"
    temporary.write_text(json.dumps(values))
    temporary.replace(folder / f"{context.rank}.json")


def told(run_folder: Path) -> list[dict[str, Any]]:
    """Return what the ranks left behind, in rank order."""
    return [json.loads(path.read_text()) for path in sorted((run_folder / "out").glob("[0-9]*.json"))]
