"""Raw rows as Arrow batches on the executors, and errors on their way back to the driver."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from jobs.preparation.columns import column
from jobs.preparation.failures import RAISED
from jobs.preparation.freed_memory import keep_freed_memory
from trainer.errors import ShardrecError
from trainer.features import chains
from trainer.features.raw_values import one_array
from trainer.schema import numbers_per_row

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

    from jobs.preparation.dealt_rows import Dealing

RawColumns = dict[str, pa.Array]
# Rows that Spark hands over at once, and that a task works on together: enough for numpy to be fast on.
_HANDED_OVER = 32_768
ROWS_AT_ONCE = 131_072
# Where rows are wide they are fewer: each op makes another copy of its numbers.
_BYTES_AT_ONCE = 64 * 2**20

Task = TypeVar("Task")
Made = TypeVar("Made")
Work = Callable[[Iterator[RawColumns]], Iterable[pa.RecordBatch]]
Function = Callable[[Iterator[pa.RecordBatch]], Iterable[pa.RecordBatch]]


class CarriedError(Exception):
    """Carries an error of ours through Spark, which keeps the text alone."""


class TaskRows(ABC):
    """Rows that tasks read by themselves, without Spark handing them over."""

    @property
    @abstractmethod
    def session(self) -> SparkSession:
        """Return the session whose tasks they are, none of Spark Connect."""

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """Return the names of all columns."""

    @abstractmethod
    def mapped(self, columns: Sequence[str], work: Work, schema: StructType | str) -> DataFrame:
        """Do what `mapped` does."""

    @abstractmethod
    def collected(self, columns: Sequence[str], work: Work) -> list[Mapping[str, Any]]:
        """Do what `collected` does."""

    @abstractmethod
    def only_training(self) -> TaskRows:
        """Return the rows of the training split."""

    @abstractmethod
    def surveyed(self, checks: Sequence[str]) -> TaskRows:
        """Return them for the pass that looks at all rows; it may deal them into parts (`dealing`) besides.

        Args:
            checks: names of row checks (`RowCheck.what`), whose findings are added as columns.
        """

    @property
    def dealt(self) -> Dealing | None:
        """Return where that pass has dealt all rows, if it has."""
        return None


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


def collected(
    frame: DataFrame | TaskRows, columns: Sequence[str], work: Work, schema: StructType | str
) -> list[Mapping[str, Any]]:
    """Do what `mapped` does, and return the rows that the function made, which should be few."""
    if isinstance(frame, TaskRows):
        return frame.collected(columns, work)
    return [row.asDict() for row in mapped(frame, columns, work, schema).collect()]


def map_in_arrow(frame: DataFrame, function: Function, schema: StructType | str) -> DataFrame:
    """Do what `mapInArrow` does, for columns of any name: left to itself it reads dots in them as paths.

    Args:
        frame: the rows.
        function: a picklable function of record batches.
        schema: of what it makes.
    """
    plain = frame.select(*[column(name).alias(f"c{n}") for n, name in enumerate(frame.columns)])
    return plain.mapInArrow(_Named(function, tuple(frame.columns)), schema)


def run_tasks(
    spark: SparkSession, tasks: Sequence[Task], function: Callable[[Task], Iterable[Made]]
) -> list[Made]:
    """Run a function on the executors, once for each task, and return all that it made.

    An RDD costs Spark a quarter to a half of what a query costs it that does the same.

    Args:
        spark: a session that is none of Spark Connect.
        tasks: what the function is to take; picklable.
        function: picklable.
    """
    if not tasks:
        return []
    rows = spark.sparkContext.parallelize(tasks, len(tasks))  # one to each partition
    made: list[Made] = rows.mapPartitions(_Each(function)).collect()
    return made


@dataclass(frozen=True)
class _Each:
    function: Callable[[Any], Iterable[Any]]

    def __call__(self, tasks: Iterator[Any]) -> Iterator[Any]:
        with inside_task():
            for task in tasks:
                yield from self.function(task)


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


def collected_in_tasks(
    spark: SparkSession, tasks: Sequence[Any], read: Callable[[Any], Iterator[RawColumns]], work: Work
) -> list[Mapping[str, Any]]:
    """Do what `in_tasks` does, and return the rows that the function made; see `run_tasks`."""
    return run_tasks(spark, tasks, _Collected(read, work))


@dataclass(frozen=True)
class _Collected:
    read: Callable[[Any], Iterator[RawColumns]]
    work: Work

    def __call__(self, task: Any) -> Iterator[Mapping[str, Any]]:
        for batch in self.work(self.read(task)):
            yield from batch.to_pylist()


@dataclass(frozen=True)
class _OwnTask:
    tasks: tuple[Any, ...]
    read: Callable[[Any], Iterator[RawColumns]]
    work: Work

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with inside_task():
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
        with inside_task():
            yield from self.work(_columns(batches))


@contextmanager
def inside_task() -> Iterator[None]:
    """Let errors of ours pass through Spark, and memory serve twice."""
    keep_freed_memory()
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
    rows = size = 0
    for batch in batches:
        if batch.num_rows == 0:
            continue
        waiting.append(batch)
        rows += batch.num_rows
        size += batch.nbytes
        if rows >= ROWS_AT_ONCE or size >= _BYTES_AT_ONCE:
            yield waiting
            waiting, rows, size = [], 0, 0
    if waiting:
        yield waiting


def rows_at_once(features: Iterable[chains.Chain]) -> int:
    """Return how many rows a task works on together: fewer where they hold long lists of numbers."""
    numbers = sum(numbers_per_row(feature.ops) or 0 for feature in features)
    return max(1, min(ROWS_AT_ONCE, _BYTES_AT_ONCE // (8 * max(numbers, 1))))


def handed_over(features: Iterable[chains.Chain]) -> int:
    """Return how many rows Spark should hand over at once."""
    return min(_HANDED_OVER, rows_at_once(features))


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
