"""Numbers made of the strictly earlier rows of an id: how many, their mean, and how long ago."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.preparation import columns as C
from jobs.preparation.histories import counted
from jobs.preparation.kernels import Batch, events
from jobs.preparation.ordered import OrderedColumn
from jobs.preparation.planned import PlannedFeature
from trainer.errors import DataError
from trainer.schema import Feature

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Question:
    """What is asked of the earlier rows; the same keys as `EarlierConfig`, the prior fitted."""

    what: str
    window: float | None
    delay: float
    smoothing: float
    prior: float


def earlier_column(
    frame: DataFrame, feature: PlannedFeature | Feature, label: Column | None
) -> OrderedColumn:
    """Return the number of an `earlier` feature, to be made by `in_order`.

    Args:
        frame: the rows.
        feature: with its fitted prior.
        label: 0 or 1, null where it is not known; None where the rows have no label at all.

    Raises:
        DataError: the labels of earlier rows are needed, and there are none.
    """
    assert feature.derived is not None
    params = feature.derived.params
    value, counts = earlier_value(frame, feature, label), counted(frame, feature)
    inputs = {"counts": counts, "seconds": seconds(frame, params["time"])}
    if value is not None:
        inputs = {**inputs, "counts": counts & value.isNotNull(), "value": value}
    question = Question(
        params["what"],
        params["window_seconds"],
        params["delay_seconds"],
        params["smoothing"] if params["prior"] is not None else 0.0,
        params["prior"] or 0.0,
    )
    return OrderedColumn(feature.column, T.DoubleType(), inputs, partial(_Earlier, question))


def earlier_value(frame: DataFrame, feature: PlannedFeature | Feature, label: Column | None) -> Column | None:
    """Return what `rate` and `mean` are the mean of, as double; None for the others.

    Raises:
        DataError: see `earlier_column`.
    """
    assert feature.derived is not None
    what = feature.derived.params["what"]
    if what == "mean":
        return C.number(frame, feature.derived.params["of"], where=f"feature {feature.name!r}: earlier.of")
    if what != "rate":
        return None
    if label is None:
        raise DataError(
            "the rate is made of the labels of earlier rows, and the rows have none",
            where=f"feature {feature.name!r}",
            fixes=[
                "score the rows together with the earlier ones and their labels",
                f"give the rate itself in a column named {feature.name!r}",
            ],
        )
    return label.cast("double")


def needs_prior(feature: PlannedFeature) -> bool:
    """Return whether the mean over the training rows has to be fitted."""
    params = feature.derived.params if feature.derived is not None else {}
    return bool(params.get("smoothing")) and params.get("what") is not None and params["prior"] is None


def prior_of(rows: DataFrame, feature: PlannedFeature, label: Column) -> Column:
    """Return the mean over the rows that count, to be asked of the training rows."""
    return F.avg(F.when(counted(rows, feature), earlier_value(rows, feature, label)))


def newest_second(rows: DataFrame, time: str) -> float | None:
    """Return the time of the newest row in seconds: the now of rows to be scored."""
    newest = rows.agg(F.max(seconds(rows, time)).alias("now")).first()
    assert newest is not None
    return None if newest["now"] is None else float(newest["now"])


def seconds(frame: DataFrame, name: str) -> Column:
    """Return a time column in seconds as double; numbers are taken to be seconds."""
    time = C.time(frame, name).cast("double")
    kind = frame.schema[name].dataType
    return time / 1e6 if isinstance(kind, (T.DateType, T.TimestampType, T.TimestampNTZType)) else time


@dataclass(frozen=True)
class _Seen:
    """Events of an id: those that later rows may have to tell apart, and count and sum of all before them.

    `newest` is the time of the last row, in seconds, whether it is an event or not.
    """

    seconds: Floats
    values: NDArray[Any]
    count: int
    sum: Any
    newest: float


class _Earlier:
    """Kernel of counts, means and recency.

    It carries the events that later rows of the id may have to tell apart (those of the moment that goes on,
    of the window, of the delay, and the newest one), and count and sum of all events before those.
    """

    def __init__(self, question: Question) -> None:
        self._asked = question
        self._seconds: Floats = np.zeros(0)
        self._values = np.zeros(0, np.longdouble)
        self._earlier = 0
        self._count, self._sum = 0, np.longdouble(0)
        self._newest = -np.inf

    def __call__(self, batch: Batch) -> pa.Array:
        seconds_N = _floats(batch.inputs["seconds"])
        found = events(batch, len(self._seconds), self._earlier, batch.moment_start_N)
        # Long doubles: the sums must not depend, in a digit that float32 shows, on where batches end.
        values_N = _floats(batch.inputs["value"]) if "value" in batch.inputs else np.zeros(len(seconds_N))
        values = np.concatenate([self._values, values_N[found.counts_N].astype(np.longdouble)])
        times = np.concatenate([self._seconds, seconds_N[found.counts_N]])
        begin, end = self._bounds(batch, seconds_N, found.counts_N, times, found.first_N, found.end_N)
        goes_on = batch.key_start_N < 0
        count = end - begin + np.where(goes_on, self._count, 0)
        sums = np.concatenate([[0], np.cumsum(values)])
        total = sums[end] - sums[begin] + np.where(goes_on, self._sum, 0)
        made, there = self._answer(seconds_N, times, begin, end, count, total)
        self._carry(times, values, goes_on[-1], int(begin[-1]), int(end[-1]), int(found.end_N[-1]))
        self._newest = float(seconds_N[-1])
        return pa.array(made.astype(np.float64), mask=~(there & batch.known_N))

    def state(self) -> _Seen:
        """Return what the kernel carries."""
        return _Seen(self._seconds, self._values, self._count, self._sum, self._newest)

    def absorb(self, state: _Seen) -> None:
        """Put later events behind one's own."""
        if state.count:  # older than all events that can still be told apart
            self._count += len(self._seconds)
            self._sum += self._values.sum()
            self._seconds, self._values = self._seconds[:0], self._values[:0]
        self._count, self._sum = self._count + state.count, self._sum + state.sum
        oldest = -np.inf if self._asked.window is None else state.newest - self._asked.window
        kept = self._seconds >= oldest
        self._seconds = np.concatenate([self._seconds[kept], state.seconds])
        self._values = np.concatenate([self._values[kept], state.values])
        self._earlier, self._newest = len(self._seconds), state.newest

    def _bounds(
        self,
        batch: Batch,
        seconds_N: Floats,
        counts_N: NDArray[np.bool_],
        times: Floats,
        first_N: NDArray[np.int64],
        end_N: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the places of the first event of the window, and of that behind the last known one."""
        begin, end = first_N, end_N
        if self._asked.window is None and self._asked.delay == 0:
            return begin, end
        # Numbers the ids of the batch from 1; 0 is the one that goes on. Complex numbers sort by id and time.
        ids_N = np.cumsum(batch.key_start_N == np.arange(len(seconds_N)))
        ids = np.concatenate([np.zeros(len(times) - int(counts_N.sum())), ids_N[counts_N]])
        placed = _pairs(ids, times)
        if self._asked.delay > 0:
            end = np.minimum(end, np.searchsorted(placed, _pairs(ids_N, seconds_N - self._asked.delay)))
        if self._asked.window is not None:
            begin = np.searchsorted(placed, _pairs(ids_N, seconds_N - self._asked.window))
        return np.minimum(begin, end), end

    def _answer(
        self,
        seconds_N: Floats,
        times: Floats,
        begin: NDArray[np.int64],
        end: NDArray[np.int64],
        count: NDArray[np.int64],
        total: NDArray[Any],
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return the numbers, and where there is one."""
        if self._asked.what == "count":
            return count, np.ones(len(count), bool)
        if self._asked.what == "recency":
            there = end > begin
            newest = times[np.where(there, end - 1, 0)] if len(times) else np.zeros(len(end))
            return seconds_N - newest, there
        weight = count + self._asked.smoothing
        mean = (total + self._asked.smoothing * self._asked.prior) / np.where(weight > 0, weight, 1)
        return mean, weight > 0

    def _carry(
        self, times: Floats, values: NDArray[Any], goes_on: bool, begin: int, end: int, moment_end: int
    ) -> None:
        """Keep what a row after the last one can need; the places are those of the last one."""
        kept = begin if self._asked.window is not None else max(begin, end - 1)
        count, total = (self._count, self._sum) if goes_on else (0, np.longdouble(0))
        self._count = count + kept - begin
        self._sum = total + values[begin:kept].sum()
        self._seconds, self._values = times[kept:].copy(), values[kept:].copy()
        self._earlier = moment_end - kept


def _floats(array: pa.Array) -> Floats:
    """Return doubles, NaN where a value is missing."""
    return np.asarray(array.to_numpy(zero_copy_only=False), dtype=np.float64)


def _pairs(ids: NDArray[Any], times: Floats) -> NDArray[np.complex128]:
    pairs = np.empty(len(times), np.complex128)
    pairs.real, pairs.imag = ids, times
    return pairs
