"""Statistics of numbers over the training rows, added up from the tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.columns import LARGEST_FLOAT
from jobs.preparation.moments import Moments
from jobs.preparation.planned import PlannedFeature
from jobs.preparation.rows import RawColumns, TaskRows, collected
from trainer.errors import DataError
from trainer.features import chains
from trainer.features.ops import column_ops, entries
from trainer.features.registry import FeatureOp, Statistics
from trainer.features.values import Floats
from trainer.schema import FittedOp

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# Values that decide medians, modes and quantiles: all features' samples together, on the driver.
_SAMPLED_VALUES = 8_000_000
_SAMPLED_ROWS = (50_000, 1_000_000)
_SCHEMA = "moments string, number int, sample binary"
_ARROW = pa.schema([("moments", pa.string()), ("number", pa.int32()), ("sample", pa.binary())])


def fit_numbers_of_ids(rows: DataFrame, features: Sequence[PlannedFeature]) -> list[PlannedFeature]:
    """Fit ops on the numbers that become ids, such as quantiles: their tokens can be counted only then.

    Args:
        rows: raw rows of the source with `SPLIT` and `ORDER`.
        features: of all kinds.

    Returns:
        The features; the sparse and sequence ones with fitted ops.
    """
    waiting = [
        feature
        for feature in features
        if feature.kind != "dense"
        and any(entry.needs_fit(op.params) for op, entry in entries(feature.ops, feature.kind))
    ]
    if not waiting:
        return list(features)
    train = rows.where(F.col(C.SPLIT) == "train")
    fitted = fit_dense(train, waiting, train.count())
    return [replace(feature, ops=fitted.get(feature.name, feature.ops)) for feature in features]


def fit_dense(
    train: DataFrame | TaskRows, features: Sequence[PlannedFeature], count: int
) -> dict[str, tuple[FittedOp, ...]]:
    """Fit op after op; one pass fits the next unfitted op of every feature at once.

    Args:
        train: the training rows, `count` of them, with `ORDER`.
        features: dense ones, or others whose ops start with numbers.
        count: of the rows.

    Returns:
        The fitted ops of each feature.
    """
    done: dict[str, tuple[FittedOp, ...]] = {f.name: () for f in features}
    while True:
        waiting: list[tuple[PlannedFeature, FittedOp, FeatureOp]] = []
        for feature in features:
            for op, entry in list(entries(feature.ops, feature.kind))[len(done[feature.name]) :]:
                if entry.needs_fit(op.params):
                    waiting.append((feature, op, entry))
                    break
                done[feature.name] += (op,)
        if not waiting:
            return {f.name: (*column_ops(f.ops), *done[f.name]) for f in features}
        wanted = [
            _Wanted(feature, done[feature.name], _needs_sample(op, entry)) for feature, op, entry in waiting
        ]
        found = _statistics(train, wanted, count)
        for (feature, op, _), (_, values) in zip(waiting, found, strict=True):
            if feature.kind == "dense" and not values:
                raise _nothing_to_fit(feature, op)
        for (feature, op, entry), (statistics, _) in zip(waiting, found, strict=True):
            done[feature.name] += (FittedOp(name=op.name, params=entry.fitted(op.params, statistics)),)


def _nothing_to_fit(feature: PlannedFeature, op: FittedOp) -> DataError:
    return DataError(
        f"dense feature {feature.name!r} has no value in the training rows, so `{op.name}` cannot be fitted",
        where=f"{feature.where}: column {feature.column!r}",
        fixes=["leave the feature out", "give `fill` a number as the first op"],
    )


@dataclass(frozen=True)
class _Wanted:
    """Statistics of a feature after its ops so far, and whether they need a sample of the values."""

    feature: PlannedFeature
    ops: tuple[FittedOp, ...]
    sample: bool


def _needs_sample(op: FittedOp, entry: FeatureOp) -> bool:
    return entry.fit is not None or any(value in ("median", "mode") for value in op.params.values())


def _statistics(
    train: DataFrame | TaskRows, wanted: Sequence[_Wanted], count: int
) -> list[tuple[Statistics, int]]:
    """Return the statistics of each, and of how many values they are."""
    least, most = _SAMPLED_ROWS
    sampled = min(max(_SAMPLED_VALUES // len(wanted), least), most)
    share = min(1.0, sampled / max(count, 1))
    work = _Work(tuple(wanted), share)
    needed = [C.ORDER, *(name for w in wanted for name in chains.raw_columns(w.feature))]
    rows = collected(train, needed, work, _SCHEMA)
    moments = [Moments() for _ in wanted]
    samples: list[list[Floats]] = [[] for _ in wanted]
    for row in rows:
        for total, part in zip(moments, json.loads(row["moments"] or "[]"), strict=False):
            total.add(Moments(*part))
        if row["sample"] is not None:
            samples[row["number"]].append(np.frombuffer(row["sample"], dtype=np.float64))
    return [
        (_rounded(m, np.sort(np.concatenate([*s, np.empty(0)]))), m.count)
        for m, s in zip(moments, samples, strict=True)
    ]


@dataclass(frozen=True)
class _Work:
    wanted: tuple[_Wanted, ...]
    share: float

    def __call__(self, batches: Iterator[RawColumns]) -> Iterator[pa.RecordBatch]:
        moments = [Moments() for _ in self.wanted]
        for columns in batches:
            # The unsigned hash decides: the same rows however Spark divides the work.
            hashes = columns[C.ORDER].to_numpy(zero_copy_only=False).view(np.uint64)
            chosen = hashes < np.uint64(min(int(self.share * 2.0**64), 2**64 - 1))
            for number, wanted in enumerate(self.wanted):
                x = _values(wanted, columns)
                there = np.abs(x) <= LARGEST_FLOAT  # neither missing nor, in a sparse feature, infinite
                moments[number].add(Moments.of(x[there]))
                if wanted.sample:
                    sample = x[there & chosen] if self.share < 1 else x[there]
                    yield _batch(None, number, sample.tobytes())
        told: list[tuple[Any, ...]] = [tuple(vars(m).values()) for m in moments]
        if any(part[0] for part in told):
            yield _batch(json.dumps(told), 0, None)


def _values(wanted: _Wanted, columns: RawColumns) -> Floats:
    value = chains.read(wanted.feature, columns).value
    assert isinstance(value, np.ndarray)
    chain = entries(wanted.feature.ops, wanted.feature.kind)
    return chains.numbers(value, [(op, entry) for op, (_, entry) in zip(wanted.ops, chain, strict=False)])


def _batch(moments: str | None, number: int, sample: bytes | None) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [pa.array([moments], pa.string()), pa.array([number], pa.int32()), pa.array([sample], pa.binary())],
        schema=_ARROW,
    )


def _rounded(found: Moments, sample: Floats) -> Statistics:
    """Return rounded moments and the sample; all zero where there are no values."""
    if found.count == 0:
        return Statistics(0.0, 0.0, 0.0, 0.0, sample)
    mean, std = found.rounded()
    return Statistics(mean, std, found.min, found.max, sample)
