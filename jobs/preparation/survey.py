"""One pass over the raw rows that finds everything wrong with them, and counts their values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.dense_checks import (
    number_errors,
    refusals_after_fitting,
    waits_for_fitting,
)
from jobs.preparation.handed_rows import HandedRows, RowsHere, RowsInSpark
from jobs.preparation.label_times import count_times, label_times, time_column
from jobs.preparation.looks import look_at_numbers, look_at_tokens
from jobs.preparation.moments import Moments
from jobs.preparation.planned import PlannedFeature
from jobs.preparation.row_checks import ErrorOf, RowCheck, found_column, source_name, with_row_checks
from jobs.preparation.rows import RawColumns, TaskRows, collected, mapped
from jobs.preparation.streams import Sender, Streams
from jobs.preparation.survey_facts import Facts, label_key
from jobs.preparation.value_counts import ROW_SCHEMA, Counts, ValueCounts, as_rows
from trainer.config import RunConfig
from trainer.errors import DataError
from trainer.features import chains
from trainer.label_times import TimeBins
from trainer.records import LabelTimes
from trainer.schema import Feature, FittedOp

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_SCHEMA = f"facts string, {ROW_SCHEMA}"
_NAMES = ["facts", "bucket", "numbers", "texts"]
_KINDS = [pa.int32(), pa.binary(), pa.binary()]
_SHOWN_PROBLEMS = 8


@dataclass
class Survey:
    """What the pass counted.

    Attributes:
        rows: of each split that has any; `DOWNSAMPLED` counts as one.
        positives: rows with label 1 of each, of the first task; 0 where that is a rating.
        labels: moments of the training rows' labels, by number of the task.
        missing: missing values among the training rows, by feature (not for lists).
        tokens: tokens of all rows, by sparse feature.
        largest_id: over all rows, by feature that holds ids already.
        kept_bytes: of the columns to keep, in memory.
        num_counts: counts in `values`.
        fingerprint: of the set of all rows of the source, 16 hex digits.
        label_times: label rate over time, where the config names a time.
        spans: oldest and newest time, in seconds since 1970, by feature that reads times.
        source_rows: rows of the source itself, without negatives.
        unmatched: such rows without a row of a side table, by the number of the join.
        streams: how `values` holds the counts.
        values: counts of the training rows' tokens, see `Counts`; `table` is the place in `counted_tables`.
            To be released when it is no longer needed.
    """

    rows: dict[str, int]
    positives: dict[str, int]
    labels: dict[int, Moments]
    missing: dict[str, int]
    tokens: dict[str, int]
    largest_id: dict[str, int]
    kept_bytes: int
    num_counts: int
    fingerprint: str
    label_times: LabelTimes | None
    spans: dict[str, list[float]]
    source_rows: int
    unmatched: dict[str, int]
    streams: Streams
    values: HandedRows

    @property
    def of_first_task(self) -> tuple[int, int, int]:
        """Return training rows that count for the first task, those with label 1, and dropped negatives."""
        return self.labels[0].count, self.positives.get("train", 0), self.rows.get(C.DOWNSAMPLED, 0)


def survey(
    rows: DataFrame | TaskRows,
    run: RunConfig,
    features: Sequence[PlannedFeature],
    checks: Sequence[RowCheck],
    streams: Streams,
    *,
    trains: bool = True,
) -> Survey:
    """Check every row and count.

    Args:
        rows: raw rows with `SPLIT`, `LABEL`, `HASH`, and `NEGATIVE` where negatives were added.
        run: for errors.
        features: to be made of them.
        checks: of the rows as a whole.
        streams: how tasks hand counts on.
        trains: there must be training rows.

    Raises:
        DataError: no rows, no training rows, or a value that cannot be used; the first problem in full, the
            others as numbered lines.
    """
    if isinstance(rows, TaskRows):
        rows = rows.surveyed([check.what for check in checks])
    else:
        rows = with_row_checks(rows, checks)
    tasks = run.data.tasks
    labels = [C.label(task.number) for task in tasks]
    marks = [name for name in (C.SPLIT, *labels, C.HASH, C.NEGATIVE) if name in rows.columns]
    needed = [*marks, *(name for f in features for name in chains.raw_columns(f))]
    needed += [*run.data.keep, *(found_column(number) for number in range(len(checks)))]
    rated = tasks[0].label.kind == "rating"
    time = None if rated else time_column(run, features, rows.columns)
    needed += [] if time is None else [time]
    joins = [name for number in range(len(run.data.joins)) if (name := C.matched(number)) in rows.columns]
    needed += joins
    counted = tuple(labels) if rated or len(tasks) > 1 else ()
    work = _Work(tuple(features), len(checks), tuple(run.data.keep), time, streams, tuple(joins), counted)
    told, values = _looked(rows, needed, work)
    try:
        facts = _checked(told, run, _errors(features, checks), trains)
    except BaseException:
        values.release()
        raise
    return Survey(
        dict(facts.rows),
        {split: 0 if rated else facts.positives[split] for split in facts.rows},
        {task.number: _training_labels(facts, task.number, bool(counted)) for task in tasks},
        dict(facts.missing),
        dict(facts.tokens),
        facts.largest,
        facts.kept_bytes,
        facts.num_counts,
        f"{facts.hashes:016x}",
        label_times(run, time, facts.times),
        facts.spans,
        facts.source_rows,
        dict(facts.unmatched),
        streams,
        values,
    )


def _training_labels(facts: Facts, task: int, counted: bool) -> Moments:
    """Return the moments of a task's label over the training rows; a lone binary label has but its counts."""
    if counted:
        return facts.labels.get(label_key("train", task), Moments())
    rows, positives = facts.rows["train"], facts.positives["train"]
    share = positives / max(1, rows)
    return Moments(rows, share, rows * share * (1 - share), float(positives == rows), float(positives > 0))


def counted_tables(features: Sequence[PlannedFeature]) -> list[str]:
    """Return the tables whose values are counted, in the order of their owners."""
    return [feature.name for feature in features if feature.owns_vocabulary]


def _looked(rows: DataFrame | TaskRows, needed: Sequence[str], work: _Work) -> tuple[list[str], HandedRows]:
    """Run the pass; return what each task has seen, and the counts."""
    if work.streams.folder is None:
        found = mapped(rows, needed, work, _SCHEMA).persist()
        facts = found.where(F.col("facts").isNotNull()).select("facts").collect()
        values = RowsInSpark(found.where(F.col("facts").isNull()).drop("facts"), found)
        return [row["facts"] for row in facts], values
    made = collected(rows, needed, work, _SCHEMA)
    here = [{name: row[name] for name in _NAMES[1:]} for row in made if row["facts"] is None]
    told = [row["facts"] for row in made if row["facts"] is not None]
    return told, RowsHere(rows.session if isinstance(rows, TaskRows) else rows.sparkSession, tuple(here))


def _checked(found: Sequence[str], run: RunConfig, errors: Mapping[str, ErrorOf], trains: bool) -> Facts:
    """Add up what the tasks have seen, and raise what is wrong."""
    facts = Facts()
    for text in found:
        facts.add(text)
    if not facts.rows:
        raise DataError("the source has no rows", where=source_name(run))
    _raise_problems(facts, errors)
    if trains and "train" not in facts.rows:
        raise DataError(
            "no row falls into the training split",
            where=f"{run.name}: {sum(facts.rows.values())} rows",
            fixes=["give data.split.fractions a larger first number", "prepare more rows"],
        )
    return facts


def check_fitted(
    rows: DataFrame | TaskRows, features: Sequence[PlannedFeature], fitted: Sequence[Feature]
) -> None:
    """Check the values that the survey could not know: those of refusing ops behind fitted ones.

    Args:
        rows: raw rows.
        features: as planned.
        fitted: the same features with their numbers.

    Raises:
        DataError: such an op refuses a value.
    """
    waiting = [(f, done.ops) for f, done in zip(features, fitted, strict=True) if waits_for_fitting(f)]
    if not waiting:
        return
    facts = Facts()
    needed = [name for f, _ in waiting for name in chains.raw_columns(f)]
    for row in collected(rows, needed, _FittedWork(tuple(waiting)), "facts string"):
        facts.add(row["facts"])
    _raise_problems(facts, _errors([f for f, _ in waiting], []))


def _errors(features: Sequence[PlannedFeature], checks: Sequence[RowCheck]) -> dict[str, ErrorOf]:
    """Return what makes the error of each key, in the order in which to tell of them."""
    errors: dict[str, ErrorOf] = {found_column(n): check.error for n, check in enumerate(checks)}
    for feature in features:
        errors |= {f"{feature.name}\n{key}": error for key, error in number_errors(feature).items()}
        if feature.kind != "dense":
            errors[f"{feature.name}\nid"] = _id_error(feature)
    return errors


def _raise_problems(facts: Facts, errors: Mapping[str, ErrorOf]) -> None:
    told = [error(*facts.bad[key]) for key, error in errors.items() if key in facts.bad][:_SHOWN_PROBLEMS]
    if told:
        first = told[0]
        fixes = [*first.fixes, *(f"also: {other.what} ({other.where})" for other in told[1:])]
        raise DataError(first.what, where=first.where, got=first.got, allowed=first.allowed, fixes=fixes)


@dataclass(frozen=True)
class _Work:
    features: tuple[PlannedFeature, ...]
    num_checks: int
    keep: tuple[str, ...]
    time: str | None
    streams: Streams
    joins: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    def __call__(self, batches: Iterator[RawColumns]) -> Iterator[pa.RecordBatch]:
        with self.streams.sender() as sender:
            yield from self._surveyed(batches, sender)

    def _surveyed(self, batches: Iterator[RawColumns], sender: Sender) -> Iterator[pa.RecordBatch]:
        tables = {name: place for place, name in enumerate(counted_tables(self.features))}
        facts, values = Facts(), ValueCounts()
        times: dict[str, TimeBins] = {}
        for columns in batches:
            facts.rows.update(_by_split(columns[C.SPLIT]))
            # A sum, which rows in any order give, and equal rows do not cancel.
            own = _of_source(columns)
            hashes = columns[C.HASH].to_numpy(zero_copy_only=False).view(np.uint64)[own]
            facts.hashes = (facts.hashes + int(hashes.sum(dtype=np.uint64))) % 2**64
            positive = pc.equal(columns[C.LABEL], 1.0)
            facts.positives.update(_by_split(columns[C.SPLIT].filter(positive)))
            for task, name in enumerate(self.labels):
                facts.see_label(task, columns[C.SPLIT], columns[name])
            for number in range(self.num_checks):
                quotes = columns[found_column(number)]
                there = quotes.is_valid().to_numpy(zero_copy_only=False)
                facts.found(found_column(number), there, quotes)
            if self.time is not None:
                count_times(columns, self.time, times)
            facts.source_rows += int(own.sum())
            for number, name in enumerate(self.joins):
                found = columns[name].to_numpy(zero_copy_only=False)
                facts.unmatched[str(number)] += int(np.count_nonzero(own & ~found))
            train = _fitted_on(columns)
            for feature in self.features:
                if feature.kind == "dense":
                    look_at_numbers(feature, columns, train, facts)
                else:
                    table = tables[feature.table] if feature.counts_values else None
                    look_at_tokens(feature, columns, train, facts, values, table)
            facts.kept_bytes += sum(columns[name].nbytes for name in self.keep)
            for counts in values.too_many():
                facts.num_counts += len(counts)
                yield from _values(counts, sender)
        counts = values.all()
        facts.num_counts += len(counts)
        yield from _values(counts, sender)
        if facts.rows:
            facts.times = {split: bins.plain() for split, bins in times.items()}
            text = pa.array([facts.as_json()])
            yield pa.RecordBatch.from_arrays([text, *(pa.nulls(1, kind) for kind in _KINDS)], _NAMES)


@dataclass(frozen=True)
class _FittedWork:
    features: tuple[tuple[PlannedFeature, tuple[FittedOp, ...]], ...]

    def __call__(self, batches: Iterator[RawColumns]) -> Iterator[pa.RecordBatch]:
        facts = Facts()
        for columns in batches:
            for feature, ops in self.features:
                x = chains.read(feature, columns).value
                assert isinstance(x, np.ndarray)
                for key, bad, shown in refusals_after_fitting(feature, ops, x):
                    facts.found(f"{feature.name}\n{key}", bad, shown)
        yield pa.RecordBatch.from_arrays([pa.array([facts.as_json()])], ["facts"])


def _by_split(splits: pa.Array) -> dict[str, int]:
    return {pair["values"]: pair["counts"] for pair in pc.value_counts(splits).to_pylist()}


def _of_source(columns: RawColumns) -> NDArray[np.bool_]:
    """Return which rows are those of the source itself and no negatives, bool [N]."""
    if C.NEGATIVE not in columns:
        return np.ones(len(columns[C.SPLIT]), dtype=np.bool_)
    found: NDArray[np.bool_] = pc.invert(columns[C.NEGATIVE]).to_numpy(zero_copy_only=False)
    return found


def _fitted_on(columns: RawColumns) -> NDArray[np.bool_]:
    """Return which rows are training rows of the source itself, bool [N]."""
    train: NDArray[np.bool_] = pc.equal(columns[C.SPLIT], "train").to_numpy(zero_copy_only=False)
    return train & _of_source(columns)


def _values(counts: Counts, sender: Sender) -> Iterator[pa.RecordBatch]:
    for batch in as_rows(counts, sender):
        yield pa.RecordBatch.from_arrays([pa.nulls(batch.num_rows, pa.string()), *batch.columns], _NAMES)


def _id_error(feature: PlannedFeature) -> ErrorOf:
    return lambda n, value: DataError(
        f"feature {feature.name!r} has {n} row(s) whose id is negative, too large, or no integer",
        where=f"{feature.where}: column {feature.column!r}",
        got=value,
        allowed="integers from 0 to 999999999999999999",
        fixes=["ops: [vocabulary] numbers any values", "ops: [{hash: 1000000}]"],
    )
