from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.ranks import slots
from jobs.ranks.slots import require_slots, spark_slots
from sharding.errors import UserError


def _session(**settings: str) -> Any:
    """Return what Spark Connect offers: settings and no context."""
    named = {f"spark.{key.replace('__', '.')}": value for key, value in settings.items()}
    return SimpleNamespace(conf=SimpleNamespace(get=lambda key, default=None: named.get(key, default)))


def test_spark_connect_does_not_tell_its_slots_and_is_not_refused() -> None:
    assert spark_slots(_session()) is None
    require_slots(_session(), 64, 0, io.StringIO())


def test_dynamic_allocation_is_refused_by_the_name_of_its_setting() -> None:
    with pytest.raises(UserError) as caught:
        require_slots(_session(dynamicAllocation__enabled="true"), 2, 0, io.StringIO())
    assert caught.value.where == "spark.dynamicAllocation.enabled"


def test_a_core_limit_below_the_ranks_is_refused_without_waiting() -> None:
    with pytest.raises(UserError, match=r"spark\.cores\.max=6") as caught:
        require_slots(_session(cores__max="6", task__cpus="2"), 4, 3600, io.StringIO())
    assert caught.value.got == "4 ranks, 3 slots"
    assert caught.value.fixes[0] == "--ranks 3"


def test_a_core_limit_counts_the_ranks_that_each_task_starts() -> None:
    require_slots(_session(cores__max="2"), 8, 0, io.StringIO(), ranks_per_task=4)
    with pytest.raises(UserError, match="fewer slots than ranks"):
        require_slots(_session(cores__max="2"), 12, 0, io.StringIO(), ranks_per_task=4)


def test_executors_that_register_late_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, said = iter([0, 1, 2]), io.StringIO()
    monkeypatch.setattr(slots, "spark_slots", lambda spark, per_task: next(counts))
    require_slots(_session(), 2, 60, said)
    assert said.getvalue() == "Waiting for executors: 0 of 2 slots are there.\n"


def test_executors_that_never_register_are_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "spark_slots", lambda spark, per_task: 0)
    with pytest.raises(UserError, match="fewer slots than ranks") as caught:
        require_slots(_session(), 2, 0, io.StringIO())
    assert caught.value.allowed == "no executor has registered"
