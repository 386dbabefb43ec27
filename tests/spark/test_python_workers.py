"""Workers of a local session are forked with what they need."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pyarrow as pa
from pyspark.sql import SparkSession

from jobs.preparation.workers import workers_starting


def facts(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    archives = [
        place for place in sys.path_importer_cache if "spark" in place and place.endswith((".zip", ".jar"))
    ]
    columns = [pa.array([gc.get_freeze_count()]), pa.array([archives], pa.list_(pa.string()))]
    for _ in batches:
        yield pa.RecordBatch.from_arrays(columns, ["objects", "archives"])


def test_workers_look_neither_for_garbage_nor_for_modules_where_the_daemon_has_looked(
    spark: SparkSession,
) -> None:
    rows = spark.range(0, 2, 1, 2).mapInArrow(facts, "objects bigint, archives array<string>").collect()
    assert all(row["objects"] > 50_000 for row in rows)
    assert all(row["archives"] == [] for row in rows)


def test_a_session_that_ends_meanwhile_does_no_harm() -> None:
    class Ended:
        class conf:  # noqa: N801 - as Spark calls it
            @staticmethod
            def get(key: str, default: str) -> str:
                return {"spark.master": "local[1]"}.get(key, default)

    with workers_starting(Ended()):  # type: ignore[arg-type]
        pass
