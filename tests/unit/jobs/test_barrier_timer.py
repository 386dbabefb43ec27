"""When the timer of barrier stages is ended: tests/cluster/test_train_on_cluster.py shows that it is."""

from __future__ import annotations

import atexit
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.ranks import barrier_timer

SUBMIT = "org.apache.spark.deploy.SparkSubmit"


@pytest.mark.parametrize(
    ("command", "ends"),
    [
        (f"{SUBMIT} --master spark://m:7077 /opt/cli.py train run.yaml", True),
        (f"{SUBMIT} --conf spark.driver.memory=1g pyspark-shell", False),
        ("com.databricks.backend.daemon.driver.DriverDaemon notebook.py", False),
        (None, False),
    ],
)
def test_only_a_jvm_that_ends_with_python_loses_its_timer(
    command: str | None, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: list[Any] = []
    monkeypatch.setattr(atexit, "register", lambda function, jvm: registered.append((function, jvm)))
    stopped = []

    def thread(name: str, daemon: bool) -> Any:
        return SimpleNamespace(
            getName=lambda: name, isDaemon=lambda: daemon, stop=lambda: stopped.append(name)
        )

    timer = "BarrierCoordinator barrier epoch increment timer"
    threads = [thread(timer, daemon=False), thread(timer, daemon=True), thread("main", daemon=False)]
    traces = SimpleNamespace(keySet=lambda: threads)
    lang = SimpleNamespace(
        System=SimpleNamespace(getProperty=lambda key: command),
        Thread=SimpleNamespace(getAllStackTraces=lambda: traces),
    )
    jvm = SimpleNamespace(java=SimpleNamespace(lang=lang))
    barrier_timer.end_with_python(SimpleNamespace(_jvm=jvm))
    assert len(registered) == ends
    for function, given in registered:
        function(given)
    assert stopped == [timer] * ends


def test_a_jvm_that_answers_nobody_keeps_its_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(key: str) -> str:
        raise RuntimeError(f"{key} is not on the list of what users may call")

    monkeypatch.setattr(atexit, "register", lambda *given: pytest.fail("the timer would be ended"))
    lang = SimpleNamespace(System=SimpleNamespace(getProperty=refuse))
    barrier_timer.end_with_python(SimpleNamespace(_jvm=SimpleNamespace(java=SimpleNamespace(lang=lang))))


def test_a_session_of_spark_connect_has_no_jvm() -> None:
    barrier_timer.end_with_python(SimpleNamespace())
