"""Ids with so many rows that several tasks share them: each takes the rows of some stretch of time.

A sample of the rows tells these ids, and the times that cut their rows into about equal segments; rows of
one moment stay together. A first pass over these ids' rows alone makes of each segment what later rows need
of it. Put together in order, that is what each segment begins with, so that all can be worked on at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.preparation import columns as C
from jobs.preparation.ordered import (
    KEY,
    SEGMENT,
    TIME,
    Maker,
    Making,
    OrderedColumn,
    Place,
    Shared,
    input_names,
    makers,
    pieces,
    place_of,
    sorted_by_id,
)
from jobs.preparation.rows import map_in_arrow

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# One task makes so many rows within seconds; with fewer a segment is not worth one.
_FEWEST_ROWS = 1_000_000
_SEGMENT_ROWS = 100_000
_SEGMENTS_PER_CORE = 4
_SEGMENTS_PER_ID = 128
# Of these the driver sees those of the frequent ids.
_SAMPLED_ROWS = 200_000
# What all segments begin with: it passes through the driver, and goes to all tasks.
_MOST_BYTES = 64 * 2**20
_ID, _BORDERS = "__shared_id", "__borders"
_FOUND = "key string, segment int, state binary"


def share(frame: DataFrame, columns: Sequence[OrderedColumn], total: int) -> Shared | None:
    """Return how tasks share the rows of frequent ids; None where that is not worth it, or takes too much.

    Args:
        frame: rows that `staged` made, with `ORDER`; they are read several times.
        columns: the same as `staged` got.
        total: number of rows.
    """
    spark = frame.sparkSession
    cores = _cores(spark)
    # Two passes by all cores have to take less than one pass by one of them.
    enough = max(_FEWEST_ROWS, 2 * total // cores)
    if total <= enough:
        return None
    frame = frame.select(KEY, TIME, C.ORDER, *input_names(columns))
    size = max(_SEGMENT_ROWS, total // (_SEGMENTS_PER_CORE * cores))
    borders = _borders(frame, enough, size, max(1, total // _SAMPLED_ROWS))
    if not borders:
        return None
    kind = T.ArrayType(frame.schema[TIME].dataType)
    schema = T.StructType([T.StructField(_ID, T.StringType()), T.StructField(_BORDERS, kind)])
    segments = partial(_with_segments, F.broadcast(spark.createDataFrame(borders, schema)))
    rows = segments(frame).where(F.col(SEGMENT).isNotNull())
    made = map_in_arrow(sorted_by_id(rows, columns), _Segments(makers(columns)), _FOUND)
    starts = _starts(made, makers(columns))
    return None if starts is None else Shared(segments, starts)


def _cores(spark: SparkSession) -> int:
    """Return how many tasks run at once, 1 where Spark does not tell."""
    try:
        return max(1, int(spark.sparkContext.defaultParallelism))
    except Exception:  # Spark Connect has no context, and says so in its own ways.
        return 1


def _borders(frame: DataFrame, enough: int, size: int, every: int) -> list[tuple[str, list[Any]]]:
    """Return the ids with enough rows, and the times at which their segments of about `size` rows begin.

    One of `every` rows tells.
    """
    sample = frame.where(F.col(KEY).isNotNull() & (F.pmod(F.xxhash64(C.ORDER, F.lit(3)), F.lit(every)) == 0))
    times = sample.groupBy(KEY).agg(F.sort_array(F.collect_list(TIME)).alias(TIME))
    found = []
    for row in times.where(F.size(TIME) * every >= enough).orderBy(KEY).collect():
        seen = row[TIME]
        count = min(_SEGMENTS_PER_ID, len(seen) * every // size)
        borders = {seen[len(seen) * n // count] for n in range(1, count)} - {seen[0]}
        if borders:
            found.append((row[KEY], sorted(borders)))
    return found


def _with_segments(table: DataFrame, frame: DataFrame) -> DataFrame:
    """Add `SEGMENT`: how many of its id's borders a row has passed."""
    passed = F.filter(_BORDERS, lambda border: border <= F.col(TIME))
    joined = frame.join(table, F.col(KEY) == F.col(_ID), "left")
    segment = F.when(F.col(_ID).isNotNull(), F.size(passed))
    return joined.withColumn(SEGMENT, segment).drop(_ID, _BORDERS)


@dataclass(frozen=True)
class _Segments:
    """Makes of the rows of each segment, all in one partition, what later rows need of them."""

    makers: tuple[Maker, ...]

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        making, here = Making(self.makers), None
        for rows in pieces(batches, self.makers):
            place = place_of(rows, 0)
            if place != here:
                if here is not None:
                    yield _found(here, making)
                making, here = Making(self.makers), place
            making(rows)
        if here is not None:
            yield _found(here, making)


def _found(place: Place, making: Making) -> pa.RecordBatch:
    key, segment = place
    columns = [pa.array([key]), pa.array([segment], pa.int32()), pa.array([making.state()], pa.binary())]
    return pa.RecordBatch.from_arrays(columns, ["key", "segment", "state"])


def _starts(found: DataFrame, of: tuple[Maker, ...]) -> dict[Place, bytes] | None:
    """Return what is known where each segment begins, but for an id's first; None where it is too much."""
    found = found.persist()
    try:
        size = found.agg(F.sum(F.length("state"))).first()
        if size is None or (size[0] or 0) > _MOST_BYTES:
            return None
        rows = sorted(found.collect(), key=lambda row: (row["key"], row["segment"]))
    finally:
        found.unpersist()
    starts: dict[Place, bytes] = {}
    left = _MOST_BYTES
    for key, own in groupby(rows, key=lambda row: str(row["key"])):
        making = Making(of)
        for number, row in enumerate(own):
            if number:
                starts[key, row["segment"]] = making.state()
                left -= len(starts[key, row["segment"]])
                if left < 0:
                    return None
            making.absorb(bytes(row["state"]))
    return starts
