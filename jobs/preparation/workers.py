"""Spark's Python workers, started while the driver still plans."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING

from jobs.preparation.rows import run_tasks
from jobs.session import is_local, over_connect

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@contextmanager
def workers_starting(spark: SparkSession) -> Iterator[None]:
    """Run a task of no use beside what is done inside, so that the first of use need not wait for imports.

    On a cluster other executors may get the tasks of use, so that nothing is done there.
    """
    if over_connect(spark) or not is_local(spark):
        yield
        return
    thread = Thread(target=_start, args=(spark,), daemon=True)
    thread.start()
    yield
    thread.join()  # but not after an error, which nobody should have to wait for


def _start(spark: SparkSession) -> None:
    with suppress(Exception):  # the tasks of use will tell
        run_tasks(spark, [None], _nothing)


def _nothing(_: None) -> tuple[()]:
    return ()
