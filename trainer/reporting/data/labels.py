"""The label rate over time: as `prepare` counted it, else of a kept column that tells the time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainer.label_times import point_count
from trainer.records import LabelTimes
from trainer.reporting.data.counted import Floats, Ints
from trainer.reporting.data.sample import SplitSample
from trainer.schema import KEEP_PREFIX, Manifest

# Numbers from here to there are seconds since 1970 (1979 to 2100); thousandths and millionths likewise.
_SECONDS = (3e8, 4.1e9)
_TIME_NAME = re.compile(r"time|date|stamp|(^|_)ts($|_)", re.IGNORECASE)


@dataclass(frozen=True)
class LabelRates:
    """Label rate over time, in buckets of equal numbers of rows.

    Attributes:
        column: raw column that tells the time.
        counted: over all rows, by `prepare`; else over the rows that were looked at.
        dated: times are seconds since 1970; else the column's own numbers.
        curves: by split, or under `all` where splits do not follow one another: mean time, label rate and
            its standard error of each bucket.
    """

    column: str
    counted: bool
    dated: bool
    curves: dict[str, tuple[Floats, Floats, Floats]]


def label_rates(manifest: Manifest, samples: Mapping[str, SplitSample]) -> LabelRates | None:
    """Return the label rate over time; None where nothing tells the time, or the label is a rating."""
    if manifest.spec.tasks[0].is_rating:
        return None
    if manifest.label_times is not None:
        return _counted_rates(manifest.label_times)
    columns = next(iter(samples.values())).columns
    types = {name: next(iter(samples.values())).type_of(name) for name in columns}
    named = list(time_columns(manifest, types))
    for name in dict.fromkeys([*named, *seconds_by_name(types)]):
        times = {split: as_times(sample.column(KEEP_PREFIX + name)) for split, sample in samples.items()}
        found = {split: x for split, x in times.items() if x is not None}
        rates = _rates(name, found, samples, _by_time(manifest)) if len(found) == len(samples) else None
        # A name alone is no proof: the numbers must be dates as well.
        if rates is not None and (name in named or rates.dated):
            return rates
    return None


def _counted_rates(found: LabelTimes) -> LabelRates:
    curves: dict[str, tuple[Floats, Floats, Floats]] = {}
    times = _seconds(np.array([point[0] for points in found.points.values() for point in points]))
    start = 0
    for split, points in found.points.items():
        _, rows, positives = np.array(points, dtype=np.float64).T
        rates = positives / rows
        curves[split] = times[start : start + len(points)], rates, np.sqrt(rates * (1 - rates) / rows)
        start += len(points)
    return LabelRates(found.column, True, _are_seconds(times), curves)


def time_columns(manifest: Manifest, types: Mapping[str, pa.DataType]) -> Iterator[str]:
    """Yield the kept columns that may tell the time: those that the config names, then those of that type."""
    kept = [name.removeprefix(KEEP_PREFIX) for name in types if name.startswith(KEEP_PREFIX)]
    preparation: dict[str, Any] = manifest.preparation
    named = [preparation.get("data", {}).get("split", {}).get("column")]
    for group in preparation.get("features", {}).get("sequence", []):
        named.append((group.get("history") or {}).get("time"))
    typed = [name for name in kept if pa.types.is_temporal(types[KEEP_PREFIX + name])]
    yield from dict.fromkeys(name for name in [*named, *typed] if name in kept)


def seconds_by_name(types: Mapping[str, pa.DataType]) -> Iterator[str]:
    """Yield the kept columns of numbers whose name speaks of time."""
    for name, kind in types.items():
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        if name.startswith(KEEP_PREFIX) and number and _TIME_NAME.search(name.removeprefix(KEEP_PREFIX)):
            yield name.removeprefix(KEEP_PREFIX)


def as_times(column: pa.ChunkedArray) -> Floats | None:
    """Return times as numbers, seconds where they are dates, NaN where missing; None for no times."""
    kind = column.type
    try:
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            try:
                column = pc.cast(column, pa.float64())
            except pa.ArrowInvalid:
                column = pc.cast(column, pa.timestamp("us"))
        if pa.types.is_temporal(column.type):
            micros = pc.cast(pc.cast(column, pa.timestamp("us"), safe=False), pa.int64())
            numbers = pc.cast(micros, pa.float64(), safe=False).to_numpy() / 1e6
        else:
            numbers = pc.cast(column, pa.float64(), safe=False).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    return _seconds(np.asarray(numbers, dtype=np.float64))


def _seconds(times: Floats) -> Floats:
    """Return thousandths and millionths of seconds since 1970 as seconds, other numbers as they are."""
    present = times[np.isfinite(times)]
    for scale in (1e3, 1e6):
        if len(present) and _are_seconds(present / scale):
            return times / scale
    return times


def _are_seconds(times: Floats) -> bool:
    return bool(_SECONDS[0] <= times.min() and times.max() <= _SECONDS[1])


def buckets(times: Floats, labels: NDArray[np.bool_], count: int) -> tuple[Floats, Floats, Floats]:
    """Return mean time, label rate and standard error of `count` buckets of equally many rows."""
    order = np.argsort(times, kind="stable")
    edges = np.linspace(0, len(order), count + 1).astype(np.int64)[:-1]
    sizes: Ints = np.diff(np.append(edges, len(order)))
    rates = np.add.reduceat(labels[order].astype(np.float64), edges) / sizes
    means = np.add.reduceat(times[order], edges) / sizes
    return means, rates, np.sqrt(rates * (1 - rates) / sizes)


def _by_time(manifest: Manifest) -> bool:
    return bool(manifest.preparation.get("data", {}).get("split", {}).get("method") == "time")


def _rates(
    name: str, times: Mapping[str, Floats], samples: Mapping[str, SplitSample], by_time: bool
) -> LabelRates | None:
    found = {split: (x, samples[split].labels) for split, x in times.items()}
    if not by_time:
        together = [np.concatenate(parts) for parts in zip(*found.values(), strict=True)]
        found = {"all": (together[0], together[1])}
    present = {split: (x[np.isfinite(x)], y[np.isfinite(x)]) for split, (x, y) in found.items()}
    present = {split: pair for split, pair in present.items() if len(pair[0])}
    if not present:
        return None
    curves = {split: buckets(x, y, point_count(len(y), int(y.sum()))) for split, (x, y) in present.items()}
    return LabelRates(name, False, all(_are_seconds(x) for x, _ in present.values()), curves)
