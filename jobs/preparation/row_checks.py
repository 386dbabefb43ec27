"""What can be wrong with a raw row outside its features, as Spark sees it: lines, label, weight, times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.earlier import seconds
from jobs.preparation.labels import label_known, label_value, weight_value
from jobs.preparation.ordered import id_key
from jobs.preparation.planned import PlannedFeature, id_columns
from jobs.preparation.text_rows import bad_line_error
from trainer.config import RunConfig, Task
from trainer.errors import DataError
from trainer.schema import FittedOp

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_YEAR_10000 = 253402300800  # in seconds since 1970
LINE, LABEL_MISSING, LABEL_WRONG = "line", "label missing", "label wrong"
_FOUND = "__bad_"

ErrorOf = Callable[[int, str], DataError]


@dataclass(frozen=True)
class RowCheck:
    """One thing that can be wrong with a row.

    Attributes:
        bad: whether it is.
        shown: value to quote.
        error: makes the error of the number of bad rows and one of their values.
        what: name of the check, where Spark is not the only one that makes it.
    """

    bad: Column
    shown: Column
    error: ErrorOf
    what: str = ""


def found_column(number: int) -> str:
    """Return the column that holds what a row check has to quote, null where the row is fine."""
    return f"{_FOUND}{number}"


def with_row_checks(frame: DataFrame, checks: Sequence[RowCheck]) -> DataFrame:
    """Add one column per check (see `found_column`)."""
    return frame.withColumns(
        {
            found_column(n): F.when(check.bad, F.coalesce(check.shown.cast("string"), F.lit("")))
            for n, check in enumerate(checks)
        }
    )


def row_checks(rows: DataFrame, run: RunConfig, features: Sequence[PlannedFeature]) -> list[RowCheck]:
    """Return all checks of rows with `BAD_LINE`, the most basic first.

    Where there are rows of users, the events were checked before.
    """
    line = RowCheck(F.col(C.BAD_LINE).isNotNull(), F.col(C.BAD_LINE), bad_line_error, LINE)
    if C.USER_ROW in rows.columns:
        return [line, *_time_checks(rows, features)]
    labels = [check for task in run.data.tasks for check in _label_checks(rows, run, task)]
    return [line, *labels, *_weight_checks(rows, run), *_time_checks(rows, features)]


def _label_checks(rows: DataFrame, run: RunConfig, task: Task) -> list[RowCheck]:
    """Check the values of the column that a task's label is made of, of rows that count for the task."""
    label, name = task.label, task.label.column
    if name is None:
        return []
    where = f"{task.key}.column: {name}"
    value, raw, known = label_value(rows, task), C.column(name), label_known(rows, task)
    if label.positive_values is not None:
        missing = value.isNull() if known is None else known & value.isNull()
    else:
        missing = C.number(rows, name).isNull() & C.not_a_number(rows, name).isNull()
    wrong = ~missing & value.isNull()
    if known is not None:
        missing, wrong = known & missing, known & wrong
    any_number = label.kind == "rating" or label.positive_at_least is not None

    def no_label(count: int, _: str) -> DataError:
        fixes = [f"data.clean.drop_missing: [{name}]", "remove those rows"]
        if run.data.labels:
            fixes.insert(0, f"{task.key}.missing: skip leaves them out of this task alone")
        return DataError(f"{count} row(s) have no label", where=where, fixes=fixes)

    def wrong_label(count: int, found: str) -> DataError:
        return DataError(
            f"{count} row(s) have a label that is {'no finite number' if any_number else 'not 0 or 1'}",
            where=where,
            got=found,
            allowed="numbers" if any_number else "0, 1",
            fixes=_named_in_file(run, name, found) or ([] if any_number else _label_rules(task, found)),
        )

    checks = [RowCheck(wrong, raw, wrong_label, LABEL_WRONG)]
    if not task.skips_missing:
        checks.insert(0, RowCheck(missing, F.lit(None), no_label, LABEL_MISSING))
    return checks


def _label_rules(task: Task, value: str) -> list[str]:
    """Return the keys that make labels of such values."""
    try:
        float(value)
    except ValueError:
        return [f"{task.key}.positive_values: [...] names the values that mean 1"]
    return [
        f"{task.key}.positive_at_least: 4 makes 1 of values >= 4",
        f"{task.key}.kind: rating where the number itself is to be predicted",
    ]


def _named_in_file(run: RunConfig, name: str, value: str) -> list[str]:
    """Return the fix for a header that was read as a row."""
    found = run.data.source is not None and value.strip() == name
    return ["data.source.header: true, without `columns`: the first line names them"] if found else []


def _weight_checks(rows: DataFrame, run: RunConfig) -> list[RowCheck]:
    weight, name, by = weight_value(rows, run.data), run.data.weight_column, run.data.weights_by
    if weight is None or name is None:
        return []

    def error(count: int, value: str) -> DataError:
        if by is not None:
            return DataError(
                f"{count} row(s) have no weight: `values` does not name theirs",
                where=f"data.weights_by.column: {name}",
                got=value or "missing",
                allowed=list(by.values),
                fixes=["add it under data.weights_by.values", "data.weights_by.other: 1"],
            )
        return DataError(
            f"{count} row(s) have a weight that is missing, negative, or not finite",
            where=f"data.weight: {name}",
            got=value,
            allowed="finite numbers >= 0",
        )

    return [RowCheck(weight.isNull() | (weight < 0) | (weight > C.LARGEST_FLOAT), C.column(name), error)]


def _time_checks(rows: DataFrame, features: Sequence[PlannedFeature]) -> list[RowCheck]:
    """Check the time of every row that has the ids of a derived feature; rows without them have no value."""
    checks: dict[tuple[tuple[str, ...], str, str], RowCheck] = {}
    for feature in features:
        if feature.derived is not None and "time" in feature.derived.params:
            ids, name = id_columns(feature.derived), feature.derived.params["time"]
            there = id_key(rows, ids).isNotNull()
            if C.USER_ROW in rows.columns:  # whose events were checked before
                there = there & ~F.col(C.USER_ROW)
            place = f"{feature.where}.{feature.derived.name}.time: {name}"
            missing, unreadable = C.time_problems(rows, name)
            for bad, what in ((missing, "no time"), (unreadable, "a time that cannot be read")):
                checks.setdefault((tuple(ids), name, what), _time_check(there & bad, what, place, name))
            if _in_seconds(feature.derived):
                late = there & (seconds(rows, name) > F.lit(_YEAR_10000))
                checks.setdefault((tuple(ids), name, "late"), _late_check(late, place, name))
    return list(checks.values())


def _in_seconds(derived: FittedOp) -> bool:
    """Return whether a derived feature depends on the unit of its times."""
    params = derived.params
    return params.get("what") == "recency" or bool(
        params.get("window_seconds") or params.get("delay_seconds")
    )


def _late_check(late: Column, place: str, name: str) -> RowCheck:
    def error(count: int, value: str) -> DataError:
        return DataError(
            f"{count} row(s) have a time after the year 9999, where numbers are seconds since 1970",
            where=place,
            got=value,
            allowed="timestamps, dates, or numbers of seconds",
            fixes=[
                "divide milliseconds by 1000, for instance in a view",
                f'data.time_formats: {{{name}: "%Y%m%d%H%M%S"}} where the digits are a date',
                "write timestamps",
            ],
        )

    return RowCheck(late, C.column(name), error)


def _time_check(bad: Column, what: str, place: str, name: str) -> RowCheck:
    def error(count: int, value: str) -> DataError:
        return DataError(
            f"{count} row(s) have an id but {what}",
            where=place,
            got=value or None,
            allowed="numbers, timestamps, dates, or text of them",
            fixes=["remove those rows", "name another column"],
        )

    return RowCheck(bad, C.column(name), error)


def source_name(run: RunConfig) -> str:
    """Return what the rows come from, for errors."""
    source = run.data.source
    return "the DataFrame" if source is None else f"data.source: {source.path or source.table}"
