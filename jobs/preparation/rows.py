"""Raw rows as Arrow batches on the executors, and errors on their way back to the driver."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from jobs.preparation.columns import column
from jobs.preparation.failures import RAISED
from trainer.errors import ShardrecError
from trainer.features.raw_values import one_array

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

RawColumns = dict[str, pa.Array]
# Rows that Spark hands over at once, and that a task works on together: enough for numpy to be fast on.
_HANDED_OVER = 32_768
ROWS_AT_ONCE = 131_072

Work = Callable[[Iterator[RawColumns]], Iterable[pa.RecordBatch]]
Function = Callable[[Iterator[pa.RecordBatch]], Iterable[pa.RecordBatch]]


class CarriedError(Exception):
    """Carries an error of ours through Spark, which keeps the text alone."""


def mapped(frame: DataFrame, columns: Sequence[str], work: Work, schema: StructType | str) -> DataFrame:
    """Run a function on the executors over all rows.

    Args:
        frame: the rows.
        columns: hand over these.
        work: a picklable function of batches of Arrow arrays by column name; makes record batches.
        schema: of what it makes.
    """
    chosen = frame.select(*[column(name) for name in dict.fromkeys(columns)])
    return map_in_arrow(chosen, _Task(work), schema)


def map_in_arrow(frame: DataFrame, function: Function, schema: StructType | str) -> DataFrame:
    """Do what `mapInArrow` does, for columns of any name: left to itself it reads dots in them as paths.

    Args:
        frame: the rows.
        function: a picklable function of record batches.
        schema: of what it makes.
    """
    plain = frame.select(*[column(name).alias(f"c{n}") for n, name in enumerate(frame.columns)])
    return plain.mapInArrow(_Named(function, tuple(frame.columns)), schema)


@dataclass(frozen=True)
class _Named:
    function: Function
    names: tuple[str, ...]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        named = (pa.RecordBatch.from_arrays(batch.columns, list(self.names)) for batch in batches)
        yield from self.function(named)


@dataclass(frozen=True)
class _Task:
    work: Work

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        try:
            yield from self.work(_columns(batches))
        except ShardrecError as error:
            raise CarriedError(RAISED + json.dumps(error.as_json(), default=str)) from error


def _columns(batches: Iterator[pa.RecordBatch]) -> Iterator[RawColumns]:
    for group in _grouped(batches):
        table = pa.Table.from_batches(group)
        yield {name: one_array(table.column(name)) for name in table.column_names}


def _grouped(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        if batch.num_rows == 0:
            continue
        waiting.append(batch)
        rows += batch.num_rows
        if rows >= ROWS_AT_ONCE:
            yield waiting
            waiting, rows = [], 0
    if waiting:
        yield waiting


@contextmanager
def large_batches(spark: SparkSession) -> Iterator[None]:
    """Let Spark hand over many rows at once."""
    key = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before: Any = spark.conf.get(key)
    spark.conf.set(key, str(_HANDED_OVER))
    try:
        yield
    finally:
        spark.conf.set(key, before)
