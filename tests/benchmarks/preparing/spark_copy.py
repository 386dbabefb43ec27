"""Floors: Spark copies the files and does nothing with the rows, in the session that `prepare` gets.

    python -m tests.benchmarks.preparing.spark_copy RAW OUT MEMORY HOW

HOW says who reads and who writes. `jvm`: Spark reads and writes. `arrow`: Spark reads and hands the rows to
Python tasks, which write. `tasks`: Python tasks read and write, as `prepare`'s do; no row goes through Spark.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.preparation.rows import large_batches
from jobs.session import spark_session
from tests.benchmarks.preparing import CORES, timed

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_ROWS_PER_ROW_GROUP = 65_536


def by_jvm(spark: SparkSession, raw: Path, out: Path) -> None:
    """Spark reads and writes."""
    spark.read.parquet(str(raw)).write.parquet(str(out))


def by_arrow(spark: SparkSession, raw: Path, out: Path) -> None:
    """Spark reads, its tasks write."""
    out.mkdir()
    with large_batches(spark):
        rows = spark.read.parquet(str(raw))
        rows.mapInArrow(partial(_write_batches, out=out), "written string").collect()


def by_tasks(spark: SparkSession, raw: Path, out: Path) -> None:
    """Tasks read and write, a file each."""
    out.mkdir()
    files = [str(file) for file in sorted(raw.glob("*.parquet"))]
    numbers = spark.range(0, len(files), 1, len(files))
    numbers.mapInArrow(partial(_copy_files, files=files, out=out), "written string").collect()


def _write_batches(batches: Iterator[pa.RecordBatch], out: Path) -> Iterator[pa.RecordBatch]:
    from pyspark import TaskContext

    context = TaskContext.get()
    assert context is not None
    path = out / f"part-{context.partitionId():05d}.parquet"
    table = pa.Table.from_batches(batches)
    pq.write_table(table, path, row_group_size=_ROWS_PER_ROW_GROUP, compression="zstd")
    yield _named(path)


def _copy_files(batches: Iterator[pa.RecordBatch], files: list[str], out: Path) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for number in batch.column(0).to_pylist():
            table = pq.ParquetFile(files[number], memory_map=True).read(use_threads=False)
            path = out / Path(files[number]).name
            pq.write_table(table, path, row_group_size=_ROWS_PER_ROW_GROUP, compression="zstd")
            yield _named(path)


def _named(path: Path) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([str(path)])], ["written"])


WAYS: dict[str, Callable[[SparkSession, Path, Path], None]] = {
    "jvm": by_jvm,
    "arrow": by_arrow,
    "tasks": by_tasks,
}


def main() -> None:
    """Start Spark with the memory of the third argument, copy as the fourth says, and print."""
    memory, how = sys.argv[3:5]
    spark = spark_session("spark_copy", master=f"local[{CORES}]", conf={"spark.driver.memory": memory})
    timed(lambda raw, out: WAYS[how](spark, raw, out))
    spark.stop()


if __name__ == "__main__":
    main()
