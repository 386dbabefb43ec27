"""GPUs that Spark hands out: how many ranks a task starts, and what is refused before Spark would hang."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from jobs.ranks.gpus import ranks_per_task, wants_gpu
from sharding.errors import UserError

AMOUNT = "spark.task.resource.gpu.amount"
VISIBLE = "spark.executorEnv.CUDA_VISIBLE_DEVICES"


def _session(amount: str | None, visible: str | None = None) -> Any:
    given = {AMOUNT: amount, VISIBLE: visible}
    named = {key: value for key, value in given.items() if value is not None}
    return SimpleNamespace(conf=SimpleNamespace(get=lambda key, default=None: named.get(key, default)))


@pytest.fixture(params=["3.5.9", "4.0.5", "4.1.4", "4.2.0", "4.3.0", "4.10.1.dev0"])
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    monkeypatch.setattr("pyspark.__version__", request.param)
    major, minor = request.param.split(".")[:2]
    return int(major), int(minor)


@pytest.mark.parametrize(
    ("device", "amount", "expected"),
    [
        ("auto", None, False),
        ("auto", "1", True),
        ("cpu", "1", False),
        ("cuda", "1", True),
        ("cpu", "2", False),
    ],
)
def test_ranks_take_the_gpus_that_spark_hands_out(
    version: tuple[int, int], device: str, amount: str | None, expected: bool
) -> None:
    assert wants_gpu(_session(amount), device) is expected
    assert ranks_per_task(_session(amount), device, 3) == 1


@pytest.mark.parametrize(
    ("device", "amount"), [("cuda", None), ("cuda", "0.5"), ("auto", "0.5"), ("auto", "1.5")]
)
def test_gpu_settings_that_cannot_work_are_named(
    version: tuple[int, int], device: str, amount: str | None
) -> None:
    with pytest.raises(UserError) as caught:
        wants_gpu(_session(amount), device)
    assert caught.value.where == AMOUNT


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_several_gpus_a_task_are_several_ranks_or_refused_where_spark_would_hang(
    version: tuple[int, int], device: str
) -> None:
    if version >= (4, 2):
        assert ranks_per_task(_session("4"), device, 8) == 4
        return
    with pytest.raises(UserError, match="one rank in each task") as caught:
        ranks_per_task(_session("4"), device, 8)
    assert caught.value.where == AMOUNT
    assert caught.value.fixes[0].startswith(f"set {AMOUNT}=1")


def test_ranks_that_do_not_fill_the_tasks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyspark.__version__", "4.2.0")
    for ranks, nearest in ((6, 4), (3, 4)):
        with pytest.raises(UserError, match="each Spark task starts 4 ranks") as caught:
            ranks_per_task(_session("4"), "auto", ranks)
        assert caught.value.fixes[0] == f"--ranks {nearest}"


def test_gpus_named_beside_those_of_spark_are_refused_where_they_would_start_more_ranks(
    version: tuple[int, int],
) -> None:
    named = _session("1", visible="0,1,2")
    assert ranks_per_task(named, "cpu", 2) == 1
    if version < (4, 2):
        assert ranks_per_task(named, "auto", 2) == 1
        return
    with pytest.raises(UserError, match="would start 3 ranks") as caught:
        ranks_per_task(named, "auto", 2)
    assert caught.value.where == VISIBLE
    assert ranks_per_task(_session("3", visible="0,1,2"), "auto", 6) == 3
