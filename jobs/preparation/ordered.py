"""Columns that need the earlier rows of an id: one streaming pass over rows sorted by id and time.

Rows are dealt into partitions by id and sorted by id and time, on disk where they do not fit into memory.
Python then sees each partition as a stream of Arrow batches; what an id's later rows need of its earlier ones
is carried from batch to batch. Memory is that of one batch and of the carried rows, however many an id has.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.kernels import Batch, Kernel, as_numpy, changes, marks
from jobs.preparation.rows import map_in_arrow

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.types import DataType

KEY = "__key"
TIME = "__time"
SEGMENT = "__segment"
_ASKED = "__asked"
ROWS_AT_ONCE = 10_000

Place = tuple[str, int]
"""An id, and the number of one of the segments that its rows are cut into by time."""


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


@dataclass(frozen=True)
class Shared:
    """How several tasks share the rows of frequent ids; see `shared_ids.share`.

    Attributes:
        with_segments: adds `SEGMENT` to rows with `KEY` and `TIME`, null where the id is none of them.
        starts: what `Making` goes on from where a segment begins, but for the first of an id.
    """

    with_segments: Callable[[DataFrame], DataFrame]
    starts: Mapping[Place, bytes]


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


def in_order(frame: DataFrame, columns: Sequence[OrderedColumn], shared: Shared | None = None) -> DataFrame:
    """Add columns that are made of each row's earlier rows.

    Args:
        frame: rows that `staged` made, and perhaps others with a null `TIME`, which come last.
        columns: the same as `staged` got.
        shared: how tasks share the rows of frequent ids; else one task makes all of an id.

    Returns:
        The rows in another order, without what `staged` added.
    """
    added = {KEY, TIME, *input_names(columns)}
    kept = [name for name in frame.columns if name not in added]
    schema = frame.select(*map(C.column, kept)).schema
    for c in columns:
        schema = schema.add(c.name, c.kind)
    placed = sorted_by_id(frame if shared is None else shared.with_segments(frame), columns)
    work = _Pass(tuple(kept), makers(columns), shared.starts if shared is not None else {})
    return map_in_arrow(placed, work, schema)


def input_names(columns: Sequence[OrderedColumn]) -> list[str]:
    """Return the names of the inputs that `staged` adds."""
    return [_input(n, name) for n, c in enumerate(columns) for name in c.inputs]


def sorted_by_id(frame: DataFrame, columns: Sequence[OrderedColumn]) -> DataFrame:
    """Bring the rows of an id, or of a segment of its rows, into one partition, sorted by id and time."""
    ties = [_input(n, "order") for n, c in enumerate(columns) if "order" in c.inputs]
    # Rows without an id would all meet in one partition.
    spread = F.when(F.col(KEY).isNull(), F.xxhash64(TIME, *ties))
    segment = [F.col(SEGMENT)] if SEGMENT in frame.columns else []
    last = [C.ORDER] if C.ORDER in frame.columns else []
    placed = frame.repartition(F.col(KEY), *segment, spread)
    return placed.sortWithinPartitions(KEY, F.col(TIME).asc_nulls_last(), *ties, *last)


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
    seen = seen.select(KEY, TIME, *input_names(columns))
    now = {_input(n, "seconds"): F.lit(seconds) for n, c in enumerate(columns) if "seconds" in c.inputs}
    asked = queries.withColumns({_ASKED: F.lit(True), **now})
    made = in_order(seen.unionByName(asked, allowMissingColumns=True), columns)
    return made.where(_ASKED).drop(_ASKED)


def _input(number: int, name: str) -> str:
    return f"__input_{number}_{name}"


@dataclass(frozen=True)
class Maker:
    """An `OrderedColumn` on an executor; pickled, so it holds no Spark objects.

    Attributes:
        name: of the column.
        inputs: columns of the rows by the kernel's own names.
        kernel: makes a new kernel.
        rows_at_once: rows of a batch at most.
    """

    name: str
    inputs: Mapping[str, str]
    kernel: Callable[[], Kernel]
    rows_at_once: int


def makers(columns: Sequence[OrderedColumn]) -> tuple[Maker, ...]:
    """Return what makes columns on an executor."""
    return tuple(
        Maker(c.name, {name: _input(n, name) for name in c.inputs}, c.kernel, c.rows_at_once)
        for n, c in enumerate(columns)
    )


class Making:
    """The kernels of some columns, which see rows in order, and the last row's id and time."""

    def __init__(self, of: Sequence[Maker]) -> None:
        self._makers = of
        self._kernels = [maker.kernel() for maker in of]
        self._last: tuple[pa.Array, pa.Array] | None = None

    def __call__(self, rows: pa.RecordBatch) -> list[pa.Array]:
        """Return the columns of the next rows."""
        key, time = rows.column(KEY), rows.column(TIME)
        found = marks(key, time, self._last)
        self._last = (key[-1:], time[-1:])
        return [
            kernel(Batch({name: rows.column(column) for name, column in maker.inputs.items()}, *found))
            for kernel, maker in zip(self._kernels, self._makers, strict=True)
        ]

    def state(self) -> bytes:
        """Return what later rows of the last row's id need."""
        return pickle.dumps([kernel.state() for kernel in self._kernels])

    def absorb(self, state: bytes) -> None:
        """Take in the rows behind a state, which are later ones of the last row's id."""
        for kernel, own in zip(self._kernels, pickle.loads(state), strict=True):  # noqa: S301 - made by `state`
            kernel.absorb(own)

    @classmethod
    def going_on(cls, of: Sequence[Maker], state: bytes, rows: pa.RecordBatch) -> Making:
        """Return what makes columns of rows of one id, all later than those behind a state."""
        made = cls(of)
        made.absorb(state)
        made._last = (rows.column(KEY)[:1], pa.nulls(1, rows.column(TIME).type))  # a moment of its own begins
        return made


def pieces(batches: Iterable[pa.RecordBatch], of: Sequence[Maker]) -> Iterator[pa.RecordBatch]:
    """Cut batches into pieces that are short enough; each segment begins a piece."""
    most = min(maker.rows_at_once for maker in of)
    for whole in batches:
        for start in range(0, whole.num_rows, most):
            rows = whole.slice(start, most)
            begun = _segments_begun(rows) if SEGMENT in rows.schema.names else []
            for a, b in pairwise([0, *begun, rows.num_rows]):
                yield rows.slice(a, b - a)


def _segments_begun(rows: pa.RecordBatch) -> list[int]:
    """Return the rows after the first at which a segment begins."""
    key, segment = rows.column(KEY), rows.column(SEGMENT)
    new = changes(key, key[:1]) | changes(segment, segment[:1])
    found: list[int] = np.flatnonzero(new & as_numpy(segment.is_valid())).tolist()
    return found


def place_of(rows: pa.RecordBatch, number: int) -> Place | None:
    """Return the segment that a row is in, if its id has some."""
    if SEGMENT not in rows.schema.names or not rows.column(SEGMENT)[number].is_valid:
        return None
    return rows.column(KEY)[number].as_py(), rows.column(SEGMENT)[number].as_py()


@dataclass(frozen=True)
class _Pass:
    """What an executor does with a partition; pickled, so it holds no Spark objects."""

    kept: tuple[str, ...]
    makers: tuple[Maker, ...]
    starts: Mapping[Place, bytes]

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        making, here = Making(self.makers), None
        names = [*self.kept, *(maker.name for maker in self.makers)]
        for rows in pieces(batches, self.makers):
            place = place_of(rows, 0)
            if place is not None and place != here and place in self.starts:
                making = Making.going_on(self.makers, self.starts[place], rows)
            made = making(rows)
            here = place_of(rows, rows.num_rows - 1)
            yield pa.RecordBatch.from_arrays([*map(rows.column, self.kept), *made], names)
