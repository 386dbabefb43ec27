"""What one rank does, however it was started: `run_rank` is the only function that launchers hand out.

Everything here is imported by Spark's Python workers as well, so torch is loaded inside the functions only.
"""

from __future__ import annotations

import faulthandler
import importlib
import logging
import os
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.ranks.faults import describe, kind_of, pack
from jobs.ranks.interrupts import StopRequest, end_when_replaced, end_with_parent
from jobs.ranks.status import Launch, RankStatus, log_file, process_table
from jobs.ranks.streams import captured_output, last_lines

if TYPE_CHECKING:
    from sharding.hosts import RankContext

# What dependencies say about each other at every start; the end of a log is for what this run met.
_KNOWN_WARNINGS = (
    r"Please use DTensor instead and we are deprecating ShardedTensor",
    r"`torch\.(jit|distributed)\.\w+` is deprecated",
)
_KNOWN_LOGGER, _KNOWN_RECORD = "torch.fx._symbolic_trace", "is_fx_tracing will return true"


def run_rank(run_folder: str, job: str) -> None:
    """Be one rank of a launch: the process that torchrun has started calls this and nothing else.

    Args:
        run_folder: the run folder, on storage that every rank sees.
        job: `package.module:function`; the function takes the run folder and a `RankContext`, and returns
            `"stopped"` when it ended early because it was asked to.
    """
    folder = Path(run_folder)
    launch = Launch.load(folder)
    stop = StopRequest(folder)
    stop.catch_signals()
    end_with_parent()
    end_when_replaced(folder, launch)
    error = work(folder, replace(launch, job=job), int(os.environ["RANK"]), stop)
    if error is not None:
        sys.stderr.write(f"rank {os.environ['RANK']} failed: {describe(error)}\n")
        sys.stderr.flush()
        # Not sys.exit: a thread that the job left behind must not keep a failed rank, and all others, alive.
        os._exit(1)


def work(
    run_folder: Path, launch: Launch, number: int, stop: Callable[[], bool], *, alone: bool = False
) -> BaseException | None:
    """Join the ranks, run the job, and leave log and status behind.

    Args:
        run_folder: the run folder.
        launch: what is launched.
        number: the launcher's number of this rank.
        stop: tells whether the run should stop.
        alone: be the only rank, inside a process that goes on afterwards.

    Returns:
        What the job raised, or None.
    """
    host, pid = socket.gethostname(), os.getpid()
    status = RankStatus(launch.attempt, number, number, host, pid, process_table=process_table())
    log = log_file(run_folder, number)
    with captured_output(log), _without_known_warnings():
        begun = datetime.now(timezone.utc).isoformat(timespec="seconds")
        print(f"attempt {launch.attempt}: number {number} of {launch.ranks} on {host}, pid {pid}, {begun}")  # noqa: T201
        if not alone:
            faulthandler.enable(all_threads=False)
        status.write(run_folder)
        try:
            context = _join(launch, stop, alone)
            status = replace(status, rank=context.rank)
            print(f"rank {context.rank} of {context.world_size} on {context.device}")  # noqa: T201
            status.write(run_folder)
            result = find_job(launch.job)(run_folder, context)
        except BaseException as error:  # CheckpointException of torch is no Exception.
            _print_traceback(error)
            _write_failure(status, run_folder, launch, error)
            _leave(failed=True, alone=alone)
            return error
        _leave(failed=False, alone=alone)
        status.write(run_folder, state="stopped" if result == "stopped" else "succeeded")
    return None


@contextmanager
def _without_known_warnings() -> Iterator[None]:
    def news(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_KNOWN_RECORD)

    logger = logging.getLogger(_KNOWN_LOGGER)
    logger.addFilter(news)
    try:
        with warnings.catch_warnings():
            for message in _KNOWN_WARNINGS:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.removeFilter(news)


def find_job(job: str) -> Callable[[Path, RankContext], Any]:
    """Return the function named by `package.module:function`."""
    module, _, name = job.partition(":")
    function: Callable[[Path, RankContext], Any] = getattr(importlib.import_module(module), name)
    return function


def _join(launch: Launch, stop: Callable[[], bool], alone: bool) -> RankContext:
    from sharding.hosts import join_ranks

    context = join_ranks(launch.device, launch.timeout_seconds, alone=alone)
    return replace(context, stop_requested=stop)


def _print_traceback(error: BaseException) -> None:
    frames = error.__traceback__
    # The first frame is ours and tells nothing.
    traceback.print_exception(type(error), error, frames.tb_next if frames is not None else None)
    sys.stderr.flush()


def _leave(*, failed: bool, alone: bool) -> None:
    # NCCL may wait for the dead when a group is destroyed; a failed rank of many ends its process instead.
    if "torch" in sys.modules and (alone or not failed):
        from sharding.hosts import leave_ranks

        leave_ranks()


def _write_failure(status: RankStatus, run_folder: Path, launch: Launch, error: BaseException) -> None:
    lines = last_lines(log_file(run_folder, status.number), after=f"attempt {launch.attempt}:")
    status.write(
        run_folder,
        state="failed",
        kind=kind_of(error),
        error=describe(error),
        user_error=pack(error),
        last_lines=tuple(lines),
    )
