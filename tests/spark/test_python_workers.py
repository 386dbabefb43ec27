"""Workers of a local session are forked with what they need."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pyarrow as pa
from pyspark.sql import SparkSession

from jobs.preparation.workers import workers_starting


def frozen(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for _ in batches:
        yield pa.RecordBatch.from_arrays([pa.array([gc.get_freeze_count()])], ["objects"])


def test_workers_do_not_look_for_garbage_in_what_the_daemon_imported(spark: SparkSession) -> None:
    rows = spark.range(0, 2, 1, 2).mapInArrow(frozen, "objects bigint").collect()
    assert all(row["objects"] > 50_000 for row in rows)


def test_a_session_that_ends_meanwhile_does_no_harm() -> None:
    class Ended:
        class conf:  # noqa: N801 - as Spark calls it
            @staticmethod
            def get(key: str, default: str) -> str:
                return {"spark.master": "local[1]"}.get(key, default)

    with workers_starting(Ended()):  # type: ignore[arg-type]
        pass
