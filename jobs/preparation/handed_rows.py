"""Small rows that tasks hand on to other tasks: tables as Arrow streams, or where such a table lies.

On a cluster Spark holds them and brings those of one key together. Where tasks hand tables on through files,
the rows are but places: the driver keeps them, which spares Spark its queries and shuffles.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from jobs.preparation.rows import RawColumns, Work, mapped, run_tasks

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Row = Mapping[str, Any]
Columns = Mapping[str, Sequence[Any]]
_TASKS_PER_CORE = 2


class HandedRows(ABC):
    """Rows on their way from task to task."""

    @abstractmethod
    def rows(self, *columns: str) -> list[Row]:
        """Bring some columns to the driver."""

    @abstractmethod
    def mapped(self, columns: Sequence[str], work: Work, schema: str) -> HandedRows:
        """Run a function over all rows.

        Args:
            columns: hand over these.
            work: see `rows.mapped`.
            schema: of what it makes.
        """

    @abstractmethod
    def grouped(self, key: str, function: Callable[[Columns], Row], schema: str) -> HandedRows:
        """Make one row of all rows of each key.

        Args:
            key: column of whole numbers.
            function: picklable.
            schema: of what it makes.
        """

    @abstractmethod
    def with_rows(self, rows: Sequence[Row], work: Work, schema: str) -> HandedRows:
        """Add what a function makes of rows of the driver's: of the same columns as these.

        Args:
            rows: some.
            work: see `rows.mapped`.
            schema: of `rows`.
        """

    @abstractmethod
    def shared(self, key: str) -> tuple[HandedRows, int]:
        """Hand all rows to several tasks, where that costs nothing.

        Args:
            key: column of the task's number; it is 0 so far.

        Returns:
            The rows once for each task, and the number of tasks: 1 where rows go through Spark.
        """

    @abstractmethod
    def kept(self) -> HandedRows:
        """Return rows that can be looked at several times, to be released in the end."""

    @abstractmethod
    def release(self) -> None:
        """Let go of what was kept."""


@dataclass(frozen=True)
class RowsInSpark(HandedRows):
    """Rows in a Spark DataFrame, and the one that is cached for them."""

    frame: DataFrame
    cached: DataFrame | None = None

    def rows(self, *columns: str) -> list[Row]:
        """See `HandedRows`."""
        return [row.asDict() for row in self.frame.select(*columns).collect()]

    def mapped(self, columns: Sequence[str], work: Work, schema: str) -> RowsInSpark:
        """See `HandedRows`."""
        return RowsInSpark(mapped(self.frame, columns, work, schema))

    def grouped(self, key: str, function: Callable[[Columns], Row], schema: str) -> RowsInSpark:
        """See `HandedRows`."""

        # Spark counts the parameters, and would count `self` as one.
        def of_group(rows: pd.DataFrame) -> pd.DataFrame:
            return pd.DataFrame([function({name: rows[name].tolist() for name in rows.columns})])

        return RowsInSpark(self.frame.groupBy(key).applyInPandas(of_group, schema))

    def with_rows(self, rows: Sequence[Row], work: Work, schema: str) -> RowsInSpark:
        """See `HandedRows`."""
        spark = self.frame.sparkSession
        names = list(rows[0]) if rows else []
        listed = spark.createDataFrame([tuple(row.values()) for row in rows], schema)
        more = mapped(listed.repartition(max(1, len(rows))), names, work, self.frame.schema)
        return RowsInSpark(self.frame.unionByName(more))

    def shared(self, key: str) -> tuple[RowsInSpark, int]:  # noqa: ARG002
        """See `HandedRows`."""
        return self, 1

    def kept(self) -> RowsInSpark:
        """See `HandedRows`."""
        cached = self.frame.persist()
        return RowsInSpark(cached, cached)

    def release(self) -> None:
        """See `HandedRows`."""
        if self.cached is not None:
            self.cached.unpersist()


@dataclass(frozen=True)
class RowsHere(HandedRows):
    """Rows in the driver's memory, for tasks of a session that has classic Spark's context."""

    spark: SparkSession
    held: tuple[Row, ...]

    def rows(self, *columns: str) -> list[Row]:
        """See `HandedRows`."""
        return [{name: row[name] for name in columns} for row in self.held]

    def mapped(self, columns: Sequence[str], work: Work, schema: str) -> RowsHere:  # noqa: ARG002
        """See `HandedRows`."""
        return self._made(self.rows(*columns), _EachRow(work))

    def grouped(self, key: str, function: Callable[[Columns], Row], schema: str) -> RowsHere:  # noqa: ARG002
        """See `HandedRows`."""
        groups: dict[int, list[Row]] = {}
        for row in self.held:
            groups.setdefault(row[key], []).append(row)
        return self._made([groups[number] for number in sorted(groups)], _EachGroup(function))

    def with_rows(self, rows: Sequence[Row], work: Work, schema: str) -> RowsHere:  # noqa: ARG002
        """See `HandedRows`."""
        return RowsHere(self.spark, self.held + self._made(rows, _EachRow(work)).held)

    def shared(self, key: str) -> tuple[RowsHere, int]:
        """See `HandedRows`."""
        tasks = self.spark.sparkContext.defaultParallelism
        rows = tuple({**row, key: number} for number in range(tasks) for row in self.held)
        return RowsHere(self.spark, rows), tasks

    def kept(self) -> RowsHere:
        """See `HandedRows`."""
        return self

    def release(self) -> None:
        """See `HandedRows`; they are gone with what refers to them."""

    def _made(self, items: Sequence[Any], function: Callable[[Sequence[Any]], Iterator[Row]]) -> RowsHere:
        most = _TASKS_PER_CORE * self.spark.sparkContext.defaultParallelism
        tasks = [items[start::most] for start in range(min(most, len(items)))]
        return RowsHere(self.spark, tuple(run_tasks(self.spark, tasks, function)))


@dataclass(frozen=True)
class _EachRow:
    work: Work

    def __call__(self, rows: Sequence[Row]) -> Iterator[Row]:
        for batch in self.work(map(_columns, rows)):
            yield from batch.to_pylist()


@dataclass(frozen=True)
class _EachGroup:
    function: Callable[[Columns], Row]

    def __call__(self, groups: Sequence[Sequence[Row]]) -> Iterator[Row]:
        for rows in groups:
            yield self.function({name: [row[name] for row in rows] for name in rows[0]})


def _columns(row: Row) -> RawColumns:
    return {name: pa.array([value]) for name, value in row.items()}
