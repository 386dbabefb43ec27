"""Columns that need the earlier rows of an id: one streaming pass over rows sorted by id and time.

Rows are dealt into partitions by id and sorted by id and time, on disk where they do not fit into memory.
Python then sees each partition as a stream of Arrow batches; what an id's later rows need of its earlier ones
is carried from batch to batch. Memory is that of one batch and of the carried rows, however many an id has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.rows import map_in_arrow

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.types import DataType

KEY = "__key"
TIME = "__time"
_ASKED = "__asked"
ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class Batch:
    """Rows in the order of id and time, and where in this batch their id and moment begin.

    Attributes:
        inputs: arrays of N values by name.
        known_N: whether the row has an id.
        key_start_N: index of the first row of the row's id, -1 where the id goes on from the batch before.
        moment_start_N: the same for rows of one id and time.
    """

    inputs: Mapping[str, pa.Array]
    known_N: NDArray[np.bool_]
    key_start_N: NDArray[np.int64]
    moment_start_N: NDArray[np.int64]


Kernel = Callable[[Batch], pa.Array]
"""Makes N values of N rows; one kernel sees all batches of a partition in order, and carries state."""


@dataclass(frozen=True)
class OrderedColumn:
    """A column to be made of each row's earlier rows.

    Attributes:
        name: column to add.
        kind: its type.
        inputs: what the kernel reads of each row; `order`, if there, breaks ties of time (ids as text).
        kernel: makes a new kernel, on the executor.
        rows_at_once: rows of a batch at most.
    """

    name: str
    kind: DataType
    inputs: Mapping[str, Column]
    kernel: Callable[[], Kernel]
    rows_at_once: int = ROWS_AT_ONCE


def id_key(frame: DataFrame, names: Sequence[str]) -> Column:
    """Return one text for the ids of some columns, null where one of them is missing."""
    tokens = [C.token(frame, name) for name in names]
    if len(tokens) == 1:
        return tokens[0]
    complete = tokens[0].isNotNull()
    for token in tokens[1:]:
        complete = complete & token.isNotNull()
    return F.when(complete, F.to_json(F.array(*tokens)))


def staged(frame: DataFrame, key: Column, time: Column, columns: Sequence[OrderedColumn]) -> DataFrame:
    """Add what `in_order` reads: `KEY`, `TIME` and the inputs of the columns."""
    inputs = {_input(n, name): x for n, c in enumerate(columns) for name, x in c.inputs.items()}
    # Rows without a time have no place in the order, so nothing is earlier than they are.
    return frame.withColumns({KEY: F.when(time.isNotNull(), key), TIME: time, **inputs})


def in_order(frame: DataFrame, columns: Sequence[OrderedColumn]) -> DataFrame:
    """Add columns that are made of each row's earlier rows.

    Args:
        frame: rows that `staged` made, and perhaps others with a null `TIME`, which come last.
        columns: the same as `staged` got.

    Returns:
        The rows in another order, without what `staged` added.
    """
    inputs = [[_input(n, name) for name in c.inputs] for n, c in enumerate(columns)]
    added = {KEY, TIME, *(name for names in inputs for name in names)}
    kept = [name for name in frame.columns if name not in added]
    schema = frame.select(*map(C.column, kept)).schema
    for c in columns:
        schema = schema.add(c.name, c.kind)
    ties = [_input(n, "order") for n, c in enumerate(columns) if "order" in c.inputs]
    # Rows without an id would all meet in one partition.
    spread = F.when(F.col(KEY).isNull(), F.xxhash64(TIME, *ties))
    placed = frame.repartition(F.col(KEY), spread).sortWithinPartitions(
        KEY, F.col(TIME).asc_nulls_last(), *ties, *([C.ORDER] if C.ORDER in kept else [])
    )
    work = _Pass(kept, inputs, tuple((c.name, tuple(c.inputs), c.kernel, c.rows_at_once) for c in columns))
    return map_in_arrow(placed, work, schema)


def as_of_now(
    rows: DataFrame,
    key: Column,
    time: Column,
    columns: Sequence[OrderedColumn],
    queries: DataFrame,
    seconds: float | None,
) -> DataFrame:
    """Return what rows that come after all others would get.

    Args:
        rows: the earlier rows.
        key: id of a row of `rows`.
        time: time of a row of `rows`.
        columns: to be made.
        queries: rows with the column `KEY`.
        seconds: their input of that name, for columns that have it.

    Returns:
        The queries with the columns added.
    """
    seen = staged(rows, key, time, columns)
    seen = seen.select(KEY, TIME, *[_input(n, name) for n, c in enumerate(columns) for name in c.inputs])
    now = {_input(n, "seconds"): F.lit(seconds) for n, c in enumerate(columns) if "seconds" in c.inputs}
    asked = queries.withColumns({_ASKED: F.lit(True), **now})
    made = in_order(seen.unionByName(asked, allowMissingColumns=True), columns)
    return made.where(_ASKED).drop(_ASKED)


def _input(number: int, name: str) -> str:
    return f"__input_{number}_{name}"


@dataclass(frozen=True)
class _Pass:
    """What an executor does with a partition; pickled, so it holds no Spark objects."""

    kept: Sequence[str]
    inputs: Sequence[Sequence[str]]
    columns: tuple[tuple[str, tuple[str, ...], Callable[[], Kernel], int], ...]

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        kernels = [make() for _, _, make, _ in self.columns]
        most = min(rows for *_, rows in self.columns)
        last: tuple[pa.Array, pa.Array] | None = None
        for whole in batches:
            for start in range(0, whole.num_rows, most):
                rows = whole.slice(start, most)
                key, time = rows.column(KEY), rows.column(TIME)
                marks = _marks(key, time, last)
                made = [
                    kernel(Batch(dict(zip(names, map(rows.column, inputs), strict=True)), *marks))
                    for kernel, inputs, (_, names, _, _) in zip(
                        kernels, self.inputs, self.columns, strict=True
                    )
                ]
                last = (key[-1:], time[-1:])
                arrays = [*map(rows.column, self.kept), *made]
                yield pa.RecordBatch.from_arrays(arrays, [*self.kept, *(name for name, *_ in self.columns)])


def _marks(
    key: pa.Array, time: pa.Array, last: tuple[pa.Array, pa.Array] | None
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Return `known_N`, `key_start_N` and `moment_start_N` of a batch."""
    known = _numpy(pc.is_valid(key))
    last_key, last_time = last or (None, None)
    # Rows without an id have nothing to do with each other.
    new_key = ~known | changes(key, last_key)
    return known, starts(new_key), starts(new_key | changes(time, last_time))


def changes(values: pa.Array, last: pa.Array | None) -> NDArray[np.bool_]:
    """Return where a value is not the one before; `last` is that before the first, as an array of one."""
    before = pa.concat_arrays([pa.nulls(1, values.type) if last is None else last, values[:-1]])
    gone = _numpy(pc.is_null(values)) != _numpy(pc.is_null(before))
    found: NDArray[np.bool_] = _numpy(pc.fill_null(pc.not_equal(values, before), False)) | gone
    return found


def starts(new_N: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return for each row the last place up to it where something new began, -1 where there is none."""
    return np.maximum.accumulate(np.where(new_N, np.arange(len(new_N)), -1))


def _numpy(array: pa.Array) -> NDArray[Any]:
    return np.asarray(array.to_numpy(zero_copy_only=False))


@dataclass(frozen=True)
class Events:
    """Where each row's earlier events lie among all events in order: those carried over, then the batch's.

    Attributes:
        counts_N: whether the row is an event.
        total: number of events.
        first_N: place of the first event of the row's id.
        end_N: place behind the last earlier event of the row's id.
    """

    counts_N: NDArray[np.bool_]
    total: int
    first_N: NDArray[np.int64]
    end_N: NDArray[np.int64]


def events(batch: Batch, carried: int, earlier: int, moment_start_N: NDArray[np.int64]) -> Events:
    """Find each row's earlier events.

    Args:
        batch: with the input `counts`.
        carried: events carried over from the batch before.
        earlier: of them, those earlier than the moment that goes on from the batch before.
        moment_start_N: row from which on nothing is earlier, -1 for one of the batch before.
    """
    counts = _numpy(pc.fill_null(batch.inputs["counts"], False)) & batch.known_N
    place = carried + np.cumsum(counts) - counts
    first = np.where(batch.key_start_N < 0, 0, place[batch.key_start_N])
    end = np.where(moment_start_N < 0, earlier, place[moment_start_N])
    return Events(counts, carried + int(counts.sum()), first, end)
