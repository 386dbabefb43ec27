"""The thread that a barrier stage leaves behind in Spark's JVM: `spark-submit` would wait for it for ever."""

from __future__ import annotations

import atexit
import os
from contextlib import suppress
from typing import Any

_NAME = "BarrierCoordinator barrier epoch increment timer"


def end_with_python(session: Any) -> None:
    """End the timer of barrier stages when this process ends, where `spark-submit` has started it.

    Up to Spark 3.5.5 nothing else does (SPARK-49479). Before that the next barrier stage needs it.

    Args:
        session: a session with a context, or one of Spark Connect, which needs nothing.
    """
    jvm = getattr(session, "_jvm", None)
    if jvm is not None and "PYSPARK_GATEWAY_PORT" in os.environ:
        atexit.unregister(_end)
        atexit.register(_end, jvm)


def _end(jvm: Any) -> None:
    with suppress(Exception):  # a JVM that is gone already
        for thread in jvm.java.lang.Thread.getAllStackTraces().keySet():
            if thread.getName() == _NAME and not thread.isDaemon():
                thread.stop()
