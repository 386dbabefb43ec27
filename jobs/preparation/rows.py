"""Raw rows as Arrow batches on the executors, and errors on their way back to the driver."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
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


class TaskRows(ABC):
    """Rows that tasks read by themselves, without Spark handing them over."""

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """Return the names of all columns."""

    @abstractmethod
    def mapped(self, columns: Sequence[str], work: Work, schema: StructType | str) -> DataFrame:
        """Do what `mapped` does."""

    @abstractmethod
    def only_training(self) -> TaskRows:
        """Return the rows of the training split."""

    @abstractmethod
    def with_checks(self, checks: Sequence[str]) -> TaskRows:
        """Add the columns that hold what row checks found, named by `RowCheck.what`."""


def mapped(
    frame: DataFrame | TaskRows, columns: Sequence[str], work: Work, schema: StructType | str
) -> DataFrame:
    """Run a function on the executors over all rows.

    Args:
        frame: the rows, or how tasks read them.
        columns: hand over these.
        work: a picklable function of batches of Arrow arrays by column name; makes record batches.
        schema: of what it makes.
    """
    if isinstance(frame, TaskRows):
        return frame.mapped(columns, work, schema)
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


def in_tasks(
    spark: SparkSession,
    tasks: Sequence[Any],
    read: Callable[[Any], Iterator[RawColumns]],
    work: Work,
    schema: StructType | str,
) -> DataFrame:
    """Run a function on the executors over what tasks read by themselves.

    Args:
        spark: the session.
        tasks: what each task is to read; picklable.
        read: makes columns of it; picklable.
        work: as for `mapped`.
        schema: of what it makes.
    """
    numbers = spark.range(0, len(tasks), 1, max(1, len(tasks)))  # one to each partition
    return numbers.mapInArrow(_OwnTask(tuple(tasks), read, work), schema)


@dataclass(frozen=True)
class _OwnTask:
    tasks: tuple[Any, ...]
    read: Callable[[Any], Iterator[RawColumns]]
    work: Work

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with carried():
            yield from self.work(self._columns(batches))

    def _columns(self, batches: Iterator[pa.RecordBatch]) -> Iterator[RawColumns]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                yield from self.read(self.tasks[number])


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
        with carried():
            yield from self.work(_columns(batches))


@contextmanager
def carried() -> Iterator[None]:
    """Let errors of ours pass through Spark."""
    try:
        yield
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
def large_batches(spark: SparkSession, rows: int = _HANDED_OVER) -> Iterator[None]:
    """Let Spark hand over many rows at once, or so many."""
    key = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before: Any = spark.conf.get(key)
    spark.conf.set(key, str(rows))
    try:
        yield
    finally:
        spark.conf.set(key, before)
