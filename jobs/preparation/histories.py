"""The earlier events of an id as lists: strictly earlier in time, the newest kept, oldest first."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.preparation import columns as C
from jobs.preparation.conditions import event_counts
from jobs.preparation.failures import RAISED
from jobs.preparation.kernels import Batch, changes, events, starts
from jobs.preparation.ordered import ROWS_AT_ONCE, OrderedColumn
from jobs.preparation.planned import PlannedFeature
from trainer.schema import Feature

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

# Items of the lists of one batch: they bound the memory of the pass.
_ITEMS_AT_ONCE = 1_000_000


def event_time(frame: DataFrame, name: str, where: str) -> Column:
    """Return the time of an event, null where it is missing; Spark fails on one that cannot be read."""
    read = C.time(frame, name)
    if not C.is_text(frame.schema[name].dataType):
        return read
    _, bad = C.time_problems(frame, name)
    message = F.concat(F.lit(f"{RAISED}{where}: column '{name}' holds no time: "), C.column(name))
    return F.when(bad, F.raise_error(message)).otherwise(read)


def counted(frame: DataFrame, feature: PlannedFeature | Feature) -> Column:
    """Return whether a row is an event of a derived feature, as far as its `where` says."""
    ready = counts_column(feature.name)
    if ready in frame.columns:
        return C.column(ready)
    assert feature.derived is not None
    place = f"{feature.name}: {feature.derived.name}.where"
    return event_counts(frame, feature.derived.params["where"], place)


def counts_column(feature: str) -> str:
    """Return the name of the column that says whether a row counts as an event of a derived feature."""
    return f"__counts_{feature}"


def history_column(frame: DataFrame, feature: PlannedFeature | Feature) -> OrderedColumn:
    """Return the list of items of a history as text, oldest first, to be made by `in_order`."""
    assert feature.derived is not None
    params = feature.derived.params
    item, counts = C.token(frame, params["item"]), counted(frame, feature)
    if not keeps_missing(feature):
        counts = counts & item.isNotNull()
    length = int(params["max_length"])
    return OrderedColumn(
        feature.column,
        T.ArrayType(T.StringType()),
        {"order": item, "counts": counts},
        partial(_Lists, length, bool(params["include_ties"])),
        max(1, min(ROWS_AT_ONCE, _ITEMS_AT_ONCE // length)),
    )


def keeps_missing(feature: PlannedFeature | Feature) -> bool:
    """Return whether events without an item are part of a history, because `fill` names an item for them."""
    return any(op.name == "fill" for op in feature.ops)


class _Lists:
    """Kernel of histories; carries the newest `length` events, and those of the moment that goes on."""

    def __init__(self, length: int, ties: bool) -> None:
        self._length, self._ties = length, ties
        self._carried = pa.nulls(0, pa.string())
        self._earlier = 0
        self._last_item: pa.Array | None = None

    def __call__(self, batch: Batch) -> pa.Array:
        item = batch.inputs["order"]
        moments = batch.moment_start_N
        if self._ties:
            new = (moments == np.arange(len(item))) | changes(item, self._last_item)
            moments = starts(new)
            self._last_item = item[-1:]
        found = events(batch, len(self._carried), self._earlier, moments)
        items = pa.concat_arrays([self._carried.cast(item.type), item.filter(pa.array(found.counts_N))])
        begin = np.maximum(found.first_N, found.end_N - self._length)
        self._carry(items, int(begin[-1]), int(found.end_N[-1]))
        return _slices(items, begin, found.end_N)

    def state(self) -> pa.Array:
        """Return the newest events."""
        return self._carried

    def absorb(self, state: pa.Array) -> None:
        """Put later events behind one's own."""
        both = pa.concat_arrays([self._carried, state.cast(pa.string())])
        self._carried = pa.concat_arrays([both[max(0, len(both) - self._length) :]])
        self._earlier = len(self._carried)

    def _carry(self, items: pa.Array, begin: int, end: int) -> None:
        """Keep what a row after the last one can need; `begin` and `end` are those of the last one's list."""
        pending = max(end, len(items) - self._length)
        self._carried = pa.concat_arrays([items[begin:end], items[pending:]])
        self._earlier = end - begin


def _slices(items: pa.Array, begin_N: NDArray[np.int64], end_N: NDArray[np.int64]) -> pa.ListArray:
    """Return the list of items from `begin` to `end` of each row."""
    lengths = end_N - begin_N
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    places = np.arange(offsets[-1]) + np.repeat(begin_N - offsets[:-1], lengths)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), items.take(pa.array(places)))
