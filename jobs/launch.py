"""Starts the ranks of a job: in this process, through TorchDistributor, or through torchrun.

TorchDistributor drops exit codes, returns any rank's value and prints all over the screen. So every launch
is judged by the status files of its ranks (`jobs.ranks.verdict`), and noise goes to `log/driver.txt` in the
run folder.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import site
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from jobs.ranks.barrier_timer import end_with_python
from jobs.ranks.gpus import ranks_per_task, wants_gpu
from jobs.ranks.interrupts import StopRequest, checkpoint_on_interrupt, end_with_parent
from jobs.ranks.slots import quiet_scheduler, require_slots, spark_slots
from jobs.ranks.status import Launch, Mode, clear, driver_log, read_statuses
from jobs.ranks.streams import captured_output, screen
from jobs.ranks.supervision import supervised
from jobs.ranks.verdict import Outcome, RankError, judge, settle
from jobs.worker import run_rank, work
from sharding.errors import UserError
from sharding.files import open_to_append

__all__ = [
    "RankError",
    "launch",
    "refuse_outer_torchrun",
    "spark_slots",
    "torchrun_rank",
    "torchrun_world_size",
]


def launch(
    job: str,
    run_folder: str | Path,
    *,
    on: Mode,
    ranks: int | None = None,
    spark: Any = None,
    device: str = "auto",
    timeout_seconds: float = 120.0,
    executor_timeout_seconds: float = 60.0,
    saves: bool = True,
) -> Outcome:
    """Run a job on ranks and return when all have ended.

    Args:
        job: `package.module:function`, importable on every rank; it takes the run folder and a `RankContext`.
        run_folder: folder that driver and ranks share.
        on: `process` (this process, one rank), `local` (TorchDistributor on this host), `spark`
            (TorchDistributor on the executors), `torchrun` (this process is a rank already where torchrun has
            started it; else torchrun is started on this host).
        ranks: how many; default 1, or torchrun's `WORLD_SIZE`.
        spark: session for `local` and `spark`; default the active one, else a new one.
        device: `auto`, `cpu` or `cuda`; the plan's, where the job follows a plan.
        timeout_seconds: how long a rank waits for the others before it gives up.
        executor_timeout_seconds: how long executors may take to register.
        saves: whether the job saves a checkpoint and stops when it is asked to, as the first Ctrl-C asks;
            else the first Ctrl-C ends everything.

    Returns:
        `"succeeded"`, or `"stopped"` when the job ended early because someone asked it to.

    Raises:
        UserError: the launch cannot work, or a rank raised such an error.
        RankError: a rank failed or was lost.
        KeyboardInterrupt: Ctrl-C came twice, or once where nothing is saved.
    """
    folder = Path(run_folder).absolute()
    number = torchrun_rank() if on == "torchrun" else None
    if number is not None:
        return _as_torchrun_rank(folder, job, number, ranks, device, timeout_seconds)
    ranks = 1 if ranks is None else ranks
    _check_ranks(on, ranks)
    record = Launch.begin(folder, job, on, ranks, device, timeout_seconds)
    if on == "process":
        return _in_this_process(folder, record, saves)
    with ExitStack() as stack:
        stream = stack.enter_context(screen())
        session = None if on == "torchrun" else stack.enter_context(_session(spark, on, folder))
        if on == "spark":
            # A mistake that shows here is told as the user's, not as a rank's.
            per_task = ranks_per_task(session, device, ranks)
            require_slots(session, ranks, executor_timeout_seconds, stream, per_task)
        if saves:
            stack.enter_context(checkpoint_on_interrupt(folder, stream))
        stack.enter_context(_importable_by_ranks(job))
        start = partial(_STARTERS[on], folder, record, session)
        failure = supervised(start, folder, record, partial(_cancel, record, session))
    statuses = settle(folder, record) if on == "spark" else read_statuses(folder, record)
    return judge(folder, record, statuses, failure)


def torchrun_rank() -> int | None:
    """Return this process's rank where torchrun (or the like) has started it, else None."""
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return int(os.environ["RANK"])
    return None


def refuse_outer_torchrun(on: Mode) -> None:
    """Refuse to be a rank of the user's own torchrun, for verbs that launch ranks by themselves.

    Raises:
        UserError: this process is one.
    """
    if on == "torchrun" and torchrun_rank() is not None:
        raise UserError(
            "only train runs under an outer torchrun",
            where="--on torchrun",
            fixes=["run the command without torchrun: --on torchrun --ranks N starts the ranks itself"],
        )


def torchrun_world_size(ranks: int | None) -> int:
    """Return how many ranks torchrun has started; only for one of them.

    Raises:
        UserError: `ranks` names another number.
    """
    world_size = int(os.environ["WORLD_SIZE"])
    if ranks not in (None, world_size):
        raise UserError(
            "torchrun has started another number of ranks",
            where="--ranks",
            got=ranks,
            allowed=world_size,
            fixes=[f"--ranks {world_size}"],
        )
    return world_size


def _check_ranks(on: Mode, ranks: int) -> None:
    if ranks < 1:
        raise UserError("a job needs at least one rank", where="--ranks", got=ranks)
    if on == "process" and ranks > 1:
        raise UserError(
            "one process is one rank",
            where="--ranks",
            got=ranks,
            allowed=1,
            fixes=[f"--on local --ranks {ranks}"],
        )


def _in_this_process(run_folder: Path, record: Launch, saves: bool) -> Outcome:
    """Be the only rank, and leave no process group, variable or handler behind."""
    import torch.distributed as dist

    from sharding.hosts import restored_process

    if dist.is_initialized():
        raise UserError(
            "this process belongs to a process group already",
            where="--on process",
            fixes=["call torch.distributed.destroy_process_group() first", "--on local"],
        )
    with ExitStack() as stack:
        if saves:
            stack.enter_context(checkpoint_on_interrupt(run_folder, stack.enter_context(screen())))
        stack.enter_context(restored_process())
        # Here the handler itself writes the file, so a look every time is what a Ctrl-C is worth.
        stop = StopRequest(run_folder, poll_seconds=0.0)
        error = work(run_folder, record, 0, stop, alone=True)
    _raise_as_it_is(error)
    return _judge_from(error, run_folder, record)


def _as_torchrun_rank(
    run_folder: Path, job: str, number: int, ranks: int | None, device: str, timeout_seconds: float
) -> Outcome:
    """Be one of the ranks that torchrun has started; each answers for itself, torchrun for them all."""
    world_size = torchrun_world_size(ranks)
    names = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
    attempt = "-".join(os.environ.get(name, "0") for name in names)
    record = Launch(attempt, job, "torchrun", world_size, device, timeout_seconds)
    if number == 0:
        clear(run_folder)  # Before the ranks meet, so before any of them can have ended.
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()
    stop = StopRequest(run_folder)
    stop.catch_signals()
    error = work(run_folder, record, number, stop)
    _raise_as_it_is(error)
    if error is not None:
        return _judge_from(error, run_folder, record)
    return "stopped" if read_statuses(run_folder, record)[number].state == "stopped" else "succeeded"


def _raise_as_it_is(error: BaseException | None) -> None:
    if isinstance(error, (UserError, KeyboardInterrupt, SystemExit)):
        raise error


def _judge_from(error: BaseException | None, run_folder: Path, record: Launch) -> Outcome:
    """Judge, with the error that this very process has met as the cause."""
    statuses = settle(run_folder, record) if error is not None else read_statuses(run_folder, record)
    try:
        return judge(run_folder, record, statuses)
    except RankError as told:
        raise told from error


def _start_local(run_folder: Path, record: Launch, _session: Any) -> None:
    """Start all ranks on this host; they choose among the GPUs that they see by themselves."""
    from pyspark.ml.torch.distributor import TorchDistributor

    distributor = TorchDistributor(num_processes=record.ranks, local_mode=True, use_gpu=False)
    distributor.run(run_rank, str(run_folder), record.job)


def _start_spark(run_folder: Path, record: Launch, session: Any) -> None:
    """Start ranks in the tasks of a barrier stage."""
    from pyspark import inheritable_thread_target
    from pyspark.ml.torch.distributor import TorchDistributor

    def run() -> None:
        with suppress(Exception):  # Spark Connect has no context; its ranks heed the stop file.
            session.sparkContext.addJobTag(_tag(record))
        gpu = wants_gpu(session, record.device)
        distributor = TorchDistributor(num_processes=record.ranks, local_mode=False, use_gpu=gpu)
        distributor.run(run_rank, str(run_folder), record.job)

    end_with_python(session)
    with quiet_scheduler(session):
        # Spark keeps the notebook's credentials and pool in properties of the thread.
        inheritable_thread_target(run)()


def _start_torchrun(run_folder: Path, record: Launch, _session: Any) -> None:
    """Start torchrun on this host, tied to this process."""
    agent = [*_python("from jobs.ranks.agent import main; main()"), str(os.getpid())]
    torchrun = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={record.ranks}", "--no-python"]
    rank = _python("from jobs.worker import run_rank; run_rank(*sys.argv[1:])")
    with os.fdopen(open_to_append(driver_log(run_folder)), "wb") as log:
        subprocess.run(
            [*agent, *torchrun, *rank, str(run_folder), record.job],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,  # The statuses tell.
        )


def _python(code: str) -> list[str]:
    """Return the command that runs code whose `jobs` is this package, whatever the working folder holds."""
    # `-m` and `-c` look into the working folder first; `-P`, which forbids it, is not known to Python 3.10.
    return [sys.executable, "-u", "-c", f"import sys; sys.path[:] = filter(None, sys.path); {code}"]


_STARTERS: dict[str, Callable[[Path, Launch, Any], None]] = {
    "local": _start_local,
    "spark": _start_spark,
    "torchrun": _start_torchrun,
}


def _cancel(record: Launch, session: Any) -> None:
    if session is not None:
        session.sparkContext.cancelJobsWithTag(_tag(record))


def _tag(record: Launch) -> str:
    return f"shardrec-{record.attempt}"


@contextmanager
def _session(spark: Any, on: Mode, run_folder: Path) -> Iterator[Any]:
    """Yield the session given, the active one, or a new one that ends with the launch."""
    from pyspark.sql import SparkSession

    session = spark if spark is not None else SparkSession.getActiveSession()
    if session is not None:
        yield session
        return
    from jobs.session import spark_session

    handler = signal.getsignal(signal.SIGINT)  # Spark puts its own in place.
    with captured_output(driver_log(run_folder)):
        session = spark_session("shardrec", master="local[1]" if on == "local" else None)
    try:
        yield session
    finally:
        session.stop()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


@contextmanager
def _importable_by_ranks(job: str) -> Iterator[None]:
    """Let ranks on this host import what this process imports: this package and the job's."""
    previous = os.environ.get("PYTHONPATH")
    folders = [_import_folder(name) for name in (job.split(":")[0], "jobs")]
    installed = {
        str(Path(folder).resolve()) for folder in (*site.getsitepackages(), site.getusersitepackages())
    }
    # Site-packages must not come before the standard library, which PYTHONPATH does.
    added = [folder for folder in dict.fromkeys(folders) if folder and folder not in installed]
    os.environ["PYTHONPATH"] = os.pathsep.join([*added, *([previous] if previous else [])])
    try:
        yield
    finally:
        if previous is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = previous


def _import_folder(module: str) -> str | None:
    spec = importlib.util.find_spec(module.split(".")[0])
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    return str(Path(places[0]).resolve().parent) if places else None
