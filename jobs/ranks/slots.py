"""How many ranks a Spark cluster can hold at once.

A barrier stage starts only when all its tasks find a slot; with too few, Spark tries again for ten minutes
before it gives up. So the slots are counted first.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TextIO

from sharding.errors import UserError

_LOOK_EVERY_SECONDS = 0.5
_SETTLE_SECONDS = 4.0
_SCHEDULER_LOGGERS = (
    "org.apache.spark.scheduler.TaskSetManager",
    "org.apache.spark.scheduler.DAGScheduler",
    "org.apache.spark.scheduler.TaskSchedulerImpl",
    "org.apache.spark.executor.Executor",
)


def spark_slots(spark: Any, ranks_per_task: int = 1) -> int | None:
    """Return the ranks that the registered executors can run at once, or None where Spark does not tell.

    Counts cores, `spark.task.cpus` and GPUs, as the scheduler itself does for barrier stages. Spark Connect
    does not tell.
    """
    try:
        context = spark.sparkContext._jsc.sc()
        profile = context.resourceProfileManager().defaultResourceProfile()
        return int(context.maxNumConcurrentTasks(profile)) * ranks_per_task
    except Exception:  # Spark Connect has neither context nor JVM, and says so in its own ways.
        return None


def even_ranks_per_host(spark: Any, ranks: int, ranks_per_task: int = 1) -> int | None:
    """Return how many ranks each host will hold, where that is certain, else None.

    It is where all executors are on one host, or where the ranks take every slot of equal hosts: which slots
    Spark fills when some stay free is not known before.
    """
    try:
        executors = spark.sparkContext._jsc.sc().statusStore().executorList(True)
        found = [executors.apply(number) for number in range(executors.size())]
        cores: Counter[str] = Counter()
        for executor in found:
            if executor.id() != "driver" or len(found) == 1:  # local[N] computes in the driver.
                cores[executor.hostPort().rpartition(":")[0]] += executor.totalCores()
    except Exception:  # Spark Connect, as above.
        return None
    if len(cores) == 1:
        return ranks
    equal = len(set(cores.values())) == 1 and ranks % len(cores) == 0
    return ranks // len(cores) if equal and ranks == spark_slots(spark, ranks_per_task) else None


def require_slots(
    spark: Any, ranks: int, timeout_seconds: float, stream: TextIO, ranks_per_task: int = 1
) -> None:
    """Wait for the executors to register, and refuse more ranks than they hold.

    Args:
        spark: the session.
        ranks: ranks that must run at once.
        timeout_seconds: how long executors may take to register.
        stream: where waiting is told.
        ranks_per_task: ranks that each task starts.

    Raises:
        UserError: too few slots, or a setting under which barrier stages cannot run.
    """
    _refuse_dynamic_allocation(spark)
    _refuse_core_limit(spark, ranks, ranks_per_task)
    told = f"{{}} of {ranks} slots are there"
    look = partial(spark_slots, spark, ranks_per_task)
    slots = _await_slots(look, lambda slots: slots >= ranks, timeout_seconds, stream, told)
    if slots is not None and slots < ranks:
        raise _too_few(ranks, slots, f"{timeout_seconds:g} s after the first look")


def settled_slots(
    spark: Any,
    timeout_seconds: float,
    stream: TextIO,
    ranks_per_task: int = 1,
    settle_seconds: float = _SETTLE_SECONDS,
) -> int | None:
    """Wait until executors have registered and no more of them come.

    Args:
        spark: the session.
        timeout_seconds: how long executors may take to register.
        stream: where waiting is told.
        ranks_per_task: ranks that each task starts.
        settle_seconds: how long the number must stay the same.

    Returns:
        The slots, or None where Spark does not tell (Spark Connect).

    Raises:
        UserError: no executor has registered, or a setting under which barrier stages cannot run.
    """
    _refuse_dynamic_allocation(spark)
    needed = 0.0 if spark.conf.get("spark.master", "").startswith("local[") else settle_seconds
    since: dict[int, float] = {}

    def settled(slots: int) -> bool:
        now = time.monotonic()
        first_seen = since.get(slots, now)
        since.clear()
        since[slots] = first_seen
        return slots > 0 and now - first_seen >= needed

    look = partial(spark_slots, spark, ranks_per_task)
    slots = _await_slots(look, settled, timeout_seconds, stream, "{} slots are there")
    if slots == 0:
        raise UserError(
            f"no executor has registered within {timeout_seconds:g} s",
            where="--on spark",
            got=f"0 slots on {spark.conf.get('spark.master', 'the cluster')}",
            fixes=[
                "look at the master's page for live workers with free cores and memory",
                "ask for smaller executors: spark.executor.memory, spark.executor.cores",
                "stop the other applications that hold the workers' cores",
            ],
        )
    return slots


def _await_slots(
    look: Callable[[], int | None],
    enough: Callable[[int], bool],
    timeout_seconds: float,
    stream: TextIO,
    told: str,
) -> int | None:
    """Look until the slots are enough or the time is over, and return the last number seen."""
    deadline, waiting = time.monotonic() + timeout_seconds, False
    while True:
        slots = look()
        if slots is None or enough(slots) or time.monotonic() > deadline:
            return slots
        if not waiting:
            stream.write(f"Waiting for executors: {told.format(slots)}.\n")
            stream.flush()
            waiting = True
        time.sleep(_LOOK_EVERY_SECONDS)


@contextmanager
def quiet_scheduler(spark: Any) -> Iterator[None]:
    """Keep the JVM from printing the tasks that a failed rank takes with it: the launcher tells it better."""
    saved: list[tuple[str, Any]] = []
    with suppress(Exception):  # Only about noise; Spark Connect has no JVM here.
        log4j = spark._jvm.org.apache.logging.log4j
        for name in _SCHEDULER_LOGGERS:
            saved.append((name, log4j.LogManager.getLogger(name).getLevel()))
            log4j.core.config.Configurator.setLevel(name, log4j.Level.OFF)
    try:
        yield
    finally:
        for name, level in saved:
            with suppress(Exception):
                log4j.core.config.Configurator.setLevel(name, level)


def _refuse_dynamic_allocation(spark: Any) -> None:
    if spark.conf.get("spark.dynamicAllocation.enabled", "false").lower() == "true":
        raise UserError(
            "ranks cannot run under dynamic allocation: Spark refuses barrier stages there",
            where="spark.dynamicAllocation.enabled",
            got="true",
            allowed="false",
            fixes=["set spark.dynamicAllocation.enabled=false and spark.executor.instances"],
        )


def _refuse_core_limit(spark: Any, ranks: int, ranks_per_task: int) -> None:
    """Refuse at once what no executor could mend by registering later."""
    limit = spark.conf.get("spark.cores.max", None)
    tasks = None if limit is None else int(limit) // int(spark.conf.get("spark.task.cpus", "1"))
    slots = None if tasks is None else tasks * ranks_per_task
    if slots is not None and slots < ranks:
        raise _too_few(ranks, slots, f"spark.cores.max={limit}")


def _too_few(ranks: int, slots: int, why: str) -> UserError:
    fixes = [f"--ranks {slots}"] if slots else []
    return UserError(
        f"the Spark cluster holds fewer slots than ranks ({why})",
        where="--ranks",
        got=f"{ranks} ranks, {slots} slots",
        allowed=f"1 to {slots} ranks" if slots else "no executor has registered",
        fixes=[
            *fixes,
            f"give the application more: spark.cores.max={ranks}, more executors, or more cores in each",
            "stop the other applications that hold the workers' cores",
        ],
    )
