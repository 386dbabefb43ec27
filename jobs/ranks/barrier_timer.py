"""The thread that a barrier stage leaves behind in Spark's JVM: `spark-submit` would wait for it for ever."""

from __future__ import annotations

import atexit
from contextlib import suppress
from typing import Any

_NAME = "BarrierCoordinator barrier epoch increment timer"


def end_with_python(session: Any) -> None:
    """End the timer of barrier stages when this process ends, where `spark-submit` runs it and then ends too.

    Up to Spark 3.5.5 nothing else does (SPARK-49479). JVMs that outlive this process, as those of notebooks,
    keep the timer: their next barrier stage needs it.

    Args:
        session: a session with a context, or one of Spark Connect, which needs nothing.
    """
    jvm = getattr(session, "_jvm", None)
    if jvm is not None and _is_spark_submit(jvm):
        atexit.unregister(_end)
        atexit.register(_end, jvm)


def _is_spark_submit(jvm: Any) -> bool:
    """Return whether a JVM is a command `spark-submit FILE.py`; a JVM that Python starts runs no file."""
    try:
        words = str(jvm.java.lang.System.getProperty("sun.java.command") or "").split()
    except Exception:  # a cluster that shuts users out of its JVM
        return False
    return words[:1] == ["org.apache.spark.deploy.SparkSubmit"] and any(w.endswith(".py") for w in words)


def _end(jvm: Any) -> None:
    with suppress(Exception):  # a JVM that is gone already
        for thread in jvm.java.lang.Thread.getAllStackTraces().keySet():
            if thread.getName() == _NAME and not thread.isDaemon():
                thread.stop()
