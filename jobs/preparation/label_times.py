"""The label rate over time: what the pass over the raw rows counts of it, for the report."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.preparation import columns as C
from jobs.preparation.planned import PlannedFeature
from jobs.preparation.rows import RawColumns
from trainer.config import RunConfig
from trainer.errors import DataError
from trainer.features import chains
from trainer.features.raw_values import times
from trainer.label_times import TimeBins, joined
from trainer.records import LabelTimes
from trainer.schema import SPLITS

ALL = "all"


def time_column(run: RunConfig, features: Sequence[PlannedFeature], columns: Collection[str]) -> str | None:
    """Return the raw column of the time: that of the split, else of a derived feature, an op, `recommend`."""
    split = run.data.split
    named = [split.column if split.method == "time" else None]
    named += [f.derived.params.get("time") for f in features if f.derived is not None]
    named += [f.column for f in features if f.derived is None and chains.reads_time(f)]
    named += [run.recommend.time if run.recommend is not None else None]
    # Last, as it may be the number of a row.
    named += [split.leave_last.time if split.leave_last is not None else None]
    return next((name for name in named if name is not None and name in columns), None)


def count_times(columns: RawColumns, name: str, seen: dict[str, TimeBins]) -> None:
    """Add some raw rows to what was seen of each split; rows without a time that can be read are left out."""
    try:
        found, _ = times(columns[name], name)
    except DataError:  # of a type that is no time: nothing has checked what `recommend` names
        return
    positive = _is(columns[C.LABEL], 1.0)
    known = columns[C.LABEL].is_valid().to_numpy(zero_copy_only=False)
    for split in SPLITS:
        own = _is(columns[C.SPLIT], split) & known
        if own.any():
            bins = TimeBins.of(found[own], positive[own])
            seen[split] = seen[split].plus(bins) if split in seen else bins


def _is(values: pa.Array, value: str | float) -> NDArray[np.bool_]:
    equal = pc.fill_null(pc.equal(values, value), False)
    found: NDArray[np.bool_] = equal.to_numpy(zero_copy_only=False)
    return found


def with_times(seen: Mapping[str, list[Any]], more: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Return the counts of two tasks together; both by split, as JSON has them."""
    both = {**seen, **more}
    for split in seen.keys() & more.keys():
        both[split] = TimeBins.from_plain(seen[split]).plus(TimeBins.from_plain(more[split])).plain()
    return both


def label_times(run: RunConfig, name: str | None, seen: Mapping[str, list[Any]]) -> LabelTimes | None:
    """Return the label rate over time of rows that were counted; None where no row has a time."""
    counted = {split: TimeBins.from_plain(seen[split]) for split in SPLITS if split in seen}
    by_split = {split: bins for split, bins in counted.items() if len(bins.table)}
    if name is None or not by_split:
        return None
    if run.data.split.method != "time":
        first, *others = by_split.values()
        for bins in others:
            first = first.plus(bins)
        by_split = {ALL: first}
    return LabelTimes(column=name, points={split: bins.points() for split, bins in by_split.items()})


def with_later(old: LabelTimes | None, new: LabelTimes | None) -> LabelTimes | None:
    """Return the label rate over time of a data set and of rows added to it; None where one has none."""
    if old is None or new is None or old.column != new.column:
        return None
    points = {}
    for split in dict.fromkeys([*old.points, *new.points]):
        both = np.array([*old.points.get(split, ()), *new.points.get(split, ())], dtype=np.float64)
        points[split] = joined(both[:, 0], both[:, 1].astype(np.int64), both[:, 2].astype(np.int64))
    return LabelTimes(column=old.column, points=points)
