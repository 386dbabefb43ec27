"""One pass over the raw rows that finds everything wrong with them, and counts their values."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.dense_checks import (
    dense_findings,
    id_findings,
    number_errors,
    refusals_after_fitting,
    waits_for_fitting,
)
from jobs.preparation.label_times import count_times, label_times, time_column, with_times
from jobs.preparation.planned import PlannedFeature
from jobs.preparation.row_checks import ErrorOf, RowCheck, found_column, source_name, with_row_checks
from jobs.preparation.rows import RawColumns, TaskRows, mapped
from jobs.preparation.streams import Sender, Streams
from jobs.preparation.value_counts import ROW_SCHEMA, Counts, ValueCounts, as_rows
from trainer.config import RunConfig
from trainer.errors import DataError
from trainer.features import chains
from trainer.features.values import Tokens
from trainer.label_times import TimeBins
from trainer.schema import Feature, FittedOp, LabelTimes

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
        positives: rows with label 1 of each.
        missing: missing values among the training rows, by feature (not for lists).
        tokens: tokens of all rows, by sparse feature.
        largest_id: over all rows, by feature that holds ids already.
        kept_bytes: of the columns to keep, in memory.
        num_counts: counts in `values`.
        fingerprint: of the set of all rows, 16 hex digits.
        label_times: label rate over time, where the config names a time.
        streams: how `values` holds the counts.
        values: counts of the training rows' tokens, see `Counts`; `table` is the place in `counted_tables`.
        cached: what `values` is made of; to be released when that is no longer needed.
    """

    rows: dict[str, int]
    positives: dict[str, int]
    missing: dict[str, int]
    tokens: dict[str, int]
    largest_id: dict[str, int]
    kept_bytes: int
    num_counts: int
    fingerprint: str
    label_times: LabelTimes | None
    streams: Streams
    values: DataFrame
    cached: DataFrame


@dataclass
class _Facts:
    """What a task has seen, to be added up; `bad` holds by key how many rows are, and their least value."""

    rows: Counter[str] = field(default_factory=Counter)
    positives: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    largest: dict[str, int] = field(default_factory=dict)
    hashes: int = 0
    kept_bytes: int = 0
    num_counts: int = 0
    times: dict[str, list[Any]] = field(default_factory=dict)
    bad: dict[str, tuple[int, str]] = field(default_factory=dict)

    def found(self, key: str, bad: NDArray[np.bool_], shown: Any) -> None:
        """Note bad rows; `shown` holds the values of all rows."""
        if bad.any():
            values = pa.array(shown[bad]) if isinstance(shown, np.ndarray) else shown.filter(pa.array(bad))
            quotes = [str(value) for value in values.to_pylist() if value == value]  # not NaN
            self.add_bad(key, int(bad.sum()), min(quotes, default=""))

    def add_bad(self, key: str, count: int, quote: str) -> None:
        """Note a number of bad rows and one of their values."""
        before = self.bad.get(key)
        self.bad[key] = (count, quote) if before is None else (before[0] + count, min(before[1], quote))

    def add(self, text: str) -> None:
        """Add what another task has seen."""
        said = json.loads(text)
        for name in ("rows", "positives", "missing", "tokens"):
            getattr(self, name).update(said[name])
        self.hashes = (self.hashes + said["hashes"]) % 2**64
        self.kept_bytes += said["kept_bytes"]
        self.num_counts += said["num_counts"]
        self.times = with_times(self.times, said["times"])
        for feature, largest in said["largest"].items():
            self.largest[feature] = max(largest, self.largest.get(feature, 0))
        for key, (count, quote) in said["bad"].items():
            self.add_bad(key, count, quote)

    def as_json(self) -> str:
        """Return it as text."""
        return json.dumps(vars(self))


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
        rows = rows.with_checks([check.what for check in checks])
    else:
        rows = with_row_checks(rows, checks)
    marks = [name for name in (C.SPLIT, C.LABEL, C.HASH, C.NEGATIVE) if name in rows.columns]
    needed = [*marks, *(name for f in features for name in chains.raw_columns(f))]
    needed += [*run.data.keep, *(found_column(number) for number in range(len(checks)))]
    time = time_column(run, features, rows.columns)
    needed += [] if time is None else [time]
    work = _Work(tuple(features), len(checks), tuple(run.data.keep), time, streams)
    found = mapped(rows, needed, work, _SCHEMA).persist()
    try:
        facts = _checked(found, run, _errors(features, checks), trains)
    except BaseException:
        found.unpersist()
        raise
    return Survey(
        dict(facts.rows),
        {split: facts.positives[split] for split in facts.rows},
        dict(facts.missing),
        dict(facts.tokens),
        facts.largest,
        facts.kept_bytes,
        facts.num_counts,
        f"{facts.hashes:016x}",
        label_times(run, time, facts.times),
        streams,
        found.where(F.col("facts").isNull()).drop("facts"),
        found,
    )


def counted_tables(features: Sequence[PlannedFeature]) -> list[str]:
    """Return the tables whose values are counted, in the order of their owners."""
    return [feature.name for feature in features if feature.owns_vocabulary]


def _checked(found: DataFrame, run: RunConfig, errors: Mapping[str, ErrorOf], trains: bool) -> _Facts:
    """Add up what the tasks have seen, and raise what is wrong."""
    facts = _Facts()
    for row in found.where(F.col("facts").isNotNull()).select("facts").collect():
        facts.add(row["facts"])
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
    facts = _Facts()
    needed = [name for f, _ in waiting for name in chains.raw_columns(f)]
    for row in mapped(rows, needed, _FittedWork(tuple(waiting)), "facts string").collect():
        facts.add(row["facts"])
    _raise_problems(facts, _errors([f for f, _ in waiting], []))


def _errors(features: Sequence[PlannedFeature], checks: Sequence[RowCheck]) -> dict[str, ErrorOf]:
    """Return what makes the error of each key, in the order in which to tell of them."""
    errors: dict[str, ErrorOf] = {found_column(n): check.error for n, check in enumerate(checks)}
    for feature in features:
        errors[f"{feature.name}\nwrong"] = _wrong_error(feature)
        errors |= {f"{feature.name}\n{key}": error for key, error in number_errors(feature).items()}
        if feature.kind != "dense":
            errors[f"{feature.name}\nid"] = _id_error(feature)
    return errors


def _raise_problems(facts: _Facts, errors: Mapping[str, ErrorOf]) -> None:
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

    def __call__(self, batches: Iterator[RawColumns]) -> Iterator[pa.RecordBatch]:
        with self.streams.sender() as sender:
            yield from self._surveyed(batches, sender)

    def _surveyed(self, batches: Iterator[RawColumns], sender: Sender) -> Iterator[pa.RecordBatch]:
        tables = {name: place for place, name in enumerate(counted_tables(self.features))}
        facts, values = _Facts(), ValueCounts()
        times: dict[str, TimeBins] = {}
        for columns in batches:
            facts.rows.update(_by_split(columns[C.SPLIT]))
            # A sum, which rows in any order give, and equal rows do not cancel.
            hashes = columns[C.HASH].to_numpy(zero_copy_only=False).view(np.uint64)
            facts.hashes = (facts.hashes + int(hashes.sum(dtype=np.uint64))) % 2**64
            positive = pc.equal(columns[C.LABEL], 1.0)
            facts.positives.update(_by_split(columns[C.SPLIT].filter(positive)))
            for number in range(self.num_checks):
                quotes = columns[found_column(number)]
                there = quotes.is_valid().to_numpy(zero_copy_only=False)
                facts.found(found_column(number), there, quotes)
            if self.time is not None:
                count_times(columns, self.time, times)
            train = _fitted_on(columns)
            for feature in self.features:
                if feature.kind == "dense":
                    _look_at_numbers(feature, columns, train, facts)
                else:
                    tokens = _look_at_tokens(feature, columns, train, facts)
                    if feature.counts_values:
                        values.add(tables[feature.table], tokens.take(train))
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
        facts = _Facts()
        for columns in batches:
            for feature, ops in self.features:
                x = chains.read(feature, columns).value
                assert isinstance(x, np.ndarray)
                for key, bad, shown in refusals_after_fitting(feature, ops, x):
                    facts.found(f"{feature.name}\n{key}", bad, shown)
        yield pa.RecordBatch.from_arrays([pa.array([facts.as_json()])], ["facts"])


def _by_split(splits: pa.Array) -> dict[str, int]:
    return {pair["values"]: pair["counts"] for pair in pc.value_counts(splits).to_pylist()}


def _fitted_on(columns: RawColumns) -> NDArray[np.bool_]:
    """Return which rows are training rows of the source itself, bool [N]."""
    train = pc.equal(columns[C.SPLIT], "train")
    if C.NEGATIVE in columns:
        train = pc.and_(train, pc.invert(columns[C.NEGATIVE]))
    found: NDArray[np.bool_] = train.to_numpy(zero_copy_only=False)
    return found


def _values(counts: Counts, sender: Sender) -> Iterator[pa.RecordBatch]:
    for batch in as_rows(counts, sender):
        yield pa.RecordBatch.from_arrays([pa.nulls(batch.num_rows, pa.string()), *batch.columns], _NAMES)


def _look_at_numbers(
    feature: PlannedFeature, columns: RawColumns, train: NDArray[np.bool_], facts: _Facts
) -> None:
    read = chains.read(feature, columns)
    assert isinstance(read.value, np.ndarray)
    missing = np.isnan(read.value)
    facts.missing[feature.name] += int((missing & train).sum())
    if read.wrong is not None:
        facts.found(f"{feature.name}\nwrong", read.wrong, columns[feature.column])
    for key, bad, shown in dense_findings(feature, read):
        facts.found(f"{feature.name}\n{key}", bad, shown)


def _look_at_tokens(
    feature: PlannedFeature, columns: RawColumns, train: NDArray[np.bool_], facts: _Facts
) -> Tokens:
    read = chains.read(feature, columns)
    if read.wrong is not None:
        facts.found(f"{feature.name}\nwrong", read.wrong, columns[feature.column])
    for key, bad, shown in id_findings(feature, read):
        facts.found(f"{feature.name}\n{key}", bad, shown)
    tokens = chains.tokens(feature, columns, read)
    facts.tokens[feature.name] += len(tokens.codes)
    if not tokens.is_list:
        facts.missing[feature.name] += int((tokens.missing & train).sum())
    if feature.id_op is None:
        _look_at_ids(feature, tokens, facts)
    return tokens


def _look_at_ids(feature: PlannedFeature, tokens: Tokens, facts: _Facts) -> None:
    numbers, good = chains.raw_ids(tokens)
    counts = tokens.counts()
    used = counts > 0
    if (used & good).any():
        largest = int(numbers[used & good].max())
        facts.largest[feature.name] = max(largest, facts.largest.get(feature.name, 0))
    bad = used & ~good
    if bad.any():
        wrong = np.append(bad, False)[tokens.codes]
        rows = (
            wrong
            if tokens.offsets is None
            else np.add.reduceat(np.append(wrong, False), tokens.offsets[:-1])[np.diff(tokens.offsets) > 0]
            > 0
        )
        quote = min(tokens.texts().filter(pa.array(bad)).to_pylist())
        facts.add_bad(f"{feature.name}\nid", int(rows.sum()), quote)


def _wrong_error(feature: PlannedFeature) -> ErrorOf:
    what, fix = "numbers", "move the column to features.sparse"
    if chains.reads_time(feature):
        what, fix = "times", "name another column"
    return lambda n, value: DataError(
        f"{feature.kind} feature {feature.name!r} has {n} value(s) that are no {what}",
        where=f"{feature.where}: column {feature.column!r}",
        got=value,
        fixes=[fix, "mend the source"],
    )


def _id_error(feature: PlannedFeature) -> ErrorOf:
    return lambda n, value: DataError(
        f"feature {feature.name!r} has {n} row(s) whose id is negative, too large, or no integer",
        where=f"{feature.where}: column {feature.column!r}",
        got=value,
        allowed="integers from 0 to 999999999999999999",
        fixes=["ops: [vocabulary] numbers any values", "ops: [{hash: 1000000}]"],
    )
