"""Which GPUs Spark hands to the ranks, and how many ranks a task therefore starts.

Up to pyspark 4.1 TorchDistributor starts one rank in each task, and where tasks take several GPUs it waits
for ranks that never come; from 4.2 on it starts one for each GPU of the task (SPARK-41916).
"""

from __future__ import annotations

import re
from typing import Any

from sharding.errors import UserError

_AMOUNT = "spark.task.resource.gpu.amount"
_VISIBLE = "spark.executorEnv.CUDA_VISIBLE_DEVICES"
_SEVERAL_A_TASK = (4, 2)


def wants_gpu(spark: Any, device: str) -> bool:
    """Return whether Spark's tasks get GPUs.

    Raises:
        UserError: GPUs are asked for and Spark hands out none, or a number that this pyspark cannot start
            ranks on.
    """
    return device != "cpu" and _gpus_per_task(spark, device) > 0


def ranks_per_task(spark: Any, device: str, ranks: int | None = None) -> int:
    """Return how many ranks each Spark task starts.

    Args:
        spark: the session.
        device: `auto`, `cpu` or `cuda`.
        ranks: ranks in all, where they are known.

    Raises:
        UserError: as `wants_gpu`, or the tasks cannot hold just so many ranks.
    """
    if not wants_gpu(spark, device):
        return 1
    per_task = _gpus_per_task(spark, device)
    if ranks is not None and ranks % per_task:
        nearest = max(1, ranks // per_task) * per_task
        raise UserError(
            f"each Spark task starts {per_task} ranks, one for each of its GPUs",
            where="--ranks",
            got=ranks,
            allowed=f"multiples of {per_task}",
            fixes=[f"--ranks {nearest}", f"set {_AMOUNT}=1"],
        )
    return per_task


def _gpus_per_task(spark: Any, device: str) -> int:
    text = spark.conf.get(_AMOUNT, "0")
    amount = float(text)
    if device == "cpu":
        return 0
    if device == "cuda" and amount == 0:
        raise UserError(
            "Spark gives the ranks no GPU",
            where=_AMOUNT,
            got="not set",
            allowed=1,
            fixes=[f"set {_AMOUNT}=1 and spark.executor.resource.gpu.amount", "train on the CPU"],
        )
    if not amount.is_integer():
        raise UserError(
            "a rank takes a whole GPU", where=_AMOUNT, got=text, allowed=1, fixes=[f"set {_AMOUNT}=1"]
        )
    if amount > 1 and not _starts_several_a_task():
        raise UserError(
            "this pyspark starts one rank in each task, whatever GPUs it has, and would wait for the others",
            where=_AMOUNT,
            got=f"{text} with pyspark {_pyspark_version()}",
            allowed=1,
            fixes=[f"set {_AMOUNT}=1: every rank is a task then", "pip install 'pyspark>=4.2'"],
        )
    _refuse_other_visible_gpus(spark, int(amount))
    return int(amount)


def _refuse_other_visible_gpus(spark: Any, amount: int) -> None:
    """Refuse GPUs named beside Spark's: TorchDistributor counts those, and starts as many ranks in a task."""
    visible = spark.conf.get(_VISIBLE, "")
    named = visible.count(",") + 1 if visible else amount
    if amount and named != amount and _starts_several_a_task():
        raise UserError(
            f"each Spark task would start {named} ranks, one for each GPU that is named",
            where=_VISIBLE,
            got=visible,
            allowed=f"not set, so that Spark chooses, or {amount} (as {_AMOUNT})",
            fixes=[f"leave {_VISIBLE} out", f"set {_AMOUNT}={named}"],
        )


def _starts_several_a_task() -> bool:
    found = re.match(r"(\d+)\.(\d+)", _pyspark_version())
    return found is not None and (int(found[1]), int(found[2])) >= _SEVERAL_A_TASK


def _pyspark_version() -> str:
    import pyspark

    return str(pyspark.__version__)
