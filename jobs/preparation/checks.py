"""One pass over the raw rows that finds everything wrong with them, and counts what the writer must know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.feature_ops import feature_ops, statistics_of
from jobs.preparation.histories import time_problems, user_column
from jobs.preparation.planned import PlannedFeature
from jobs.preparation.sources import bad_line_error
from jobs.preparation.transform import RAW_ID, tokens, with_dense
from trainer.config import LabelConfig, RunConfig
from trainer.errors import DataError
from trainer.schema import Feature, FittedOp

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_LARGEST_FLOAT = 3.4028234e38


@dataclass(frozen=True)
class Survey:
    """What the pass counted.

    Attributes:
        rows: of each split that has any.
        missing: missing values among the training rows, by feature (not for lists).
        largest_id: over all rows, by feature that holds ids already.
    """

    rows: dict[str, int]
    missing: dict[str, int]
    largest_id: dict[str, int]


@dataclass(frozen=True)
class _Check:
    """One thing that can be wrong with a row.

    Attributes:
        bad: whether it is.
        shown: value to quote.
        error: makes the error of the number of bad rows and one of their values.
    """

    bad: Column
    shown: Column
    error: Callable[[int, str], DataError]


def label_value(frame: DataFrame, label: LabelConfig) -> Column:
    """Return the label as 0 or 1 (float); null where the raw value is missing or cannot be one."""
    x = C.number(frame, label.column, where=f"data.label.column: {label.column}")
    if label.positive_at_least is None:
        return F.when(x.isin(0.0, 1.0), x).cast("float")
    return F.when(x.isNotNull(), (x >= F.lit(label.positive_at_least)).cast("float"))


def survey(rows: DataFrame, run: RunConfig, features: Sequence[PlannedFeature]) -> Survey:
    """Check every row and count.

    Args:
        rows: raw rows with `SPLIT` and `BAD_LINE`.
        run: names label and weight.
        features: to be made of them.

    Raises:
        DataError: no rows, no training rows, or a value that cannot be used; the first problem in full, the
            others as numbered lines.
    """
    rows = _with_dense_steps(rows, features)
    checks = [_line_check(), *_label_checks(rows, run), *_history_checks(rows, features)]
    facts: dict[str, Column] = {"rows": F.count(F.lit(1))}
    for number, feature in enumerate(features):
        if feature.kind == "dense":
            checks += _dense_checks(rows, number, feature)
            facts[f"missing_{number}"] = _count(C.number(rows, feature.column).isNull())
        else:
            x, listed = tokens(rows, feature.column, feature.ops)
            if not listed:
                facts[f"missing_{number}"] = _count(x.isNull())
            if feature.id_op is None:
                checks.append(_id_check(x, listed, feature))
                facts[f"largest_{number}"] = F.max(_largest_id(x, listed))
    found = _count_by_split(rows, checks, facts)
    if not found:
        raise DataError("the source has no rows", where=source_name(run))
    _raise_problems(
        rows, checks, [sum(row[f"bad_{n}"] for row in found.values()) for n in range(len(checks))]
    )
    if "train" not in found:
        raise DataError(
            "no row falls into the training split",
            where=f"{run.name}: {sum(row['rows'] for row in found.values())} rows",
            fixes=["give data.split.fractions a larger first number", "prepare more rows"],
        )
    train = found["train"]
    largest = {
        feature.name: max(row[f"largest_{number}"] or 0 for row in found.values())
        for number, feature in enumerate(features)
        if f"largest_{number}" in facts
    }
    missing = {f.name: train[f"missing_{n}"] for n, f in enumerate(features) if f"missing_{n}" in facts}
    return Survey({split: row["rows"] for split, row in found.items()}, missing, largest)


def _count_by_split(
    rows: DataFrame, checks: Sequence[_Check], facts: Mapping[str, Column]
) -> dict[str, dict[str, Any]]:
    # Numbers only: one text among the aggregates would make Spark sort all rows to group them.
    asked = {**facts, **{f"bad_{number}": _count(check.bad) for number, check in enumerate(checks)}}
    answers = rows.groupBy(C.SPLIT).agg(*[value.alias(name) for name, value in asked.items()]).collect()
    return {row[C.SPLIT]: row.asDict() for row in answers}


def _count(condition: Column) -> Column:
    return F.count(F.when(condition, 1))


def _raise_problems(rows: DataFrame, checks: Sequence[_Check], counts: Sequence[int]) -> None:
    failed = [(check, count) for check, count in zip(checks, counts, strict=True) if count][:8]
    if not failed:
        return
    quotes = [
        F.min(F.when(check.bad, check.shown.cast("string"))).alias(str(n))
        for n, (check, _) in enumerate(failed)
    ]
    row = rows.agg(*quotes).first()
    assert row is not None
    errors = [check.error(count, quote or "") for (check, count), quote in zip(failed, row, strict=True)]
    first = errors[0]
    fixes = [*first.fixes, *(f"also: {other.what} ({other.where})" for other in errors[1:])]
    raise DataError(first.what, where=first.where, got=first.got, allowed=first.allowed, fixes=fixes)


def _line_check() -> _Check:
    return _Check(F.col(C.BAD_LINE).isNotNull(), F.col(C.BAD_LINE), bad_line_error)


def _label_checks(rows: DataFrame, run: RunConfig) -> list[_Check]:
    name = run.data.label.column
    where, graded = f"data.label.column: {name}", run.data.label.positive_at_least is not None
    label, raw = label_value(rows, run.data.label), C.column(name)
    missing = C.number(rows, name).isNull() & C.not_a_number(rows, name).isNull()
    checks = [
        _Check(
            missing,
            F.lit(None),
            lambda n, _: DataError(f"{n} row(s) have no label", where=where, fixes=["remove those rows"]),
        ),
        _Check(
            ~missing & label.isNull(),
            raw,
            lambda n, value: DataError(
                f"{n} row(s) have a label that is {'no number' if graded else 'not 0 or 1'}",
                where=where,
                got=value,
                allowed="numbers" if graded else "0, 1",
                fixes=[] if graded else ["data.label.positive_at_least: 4 makes 1 of values >= 4"],
            ),
        ),
    ]
    if run.data.weight is not None:
        place = f"data.weight: {run.data.weight}"
        weight = C.number(rows, run.data.weight, where=place)
        checks.append(
            _Check(
                weight.isNull() | (weight < 0) | (weight > _LARGEST_FLOAT),
                C.column(run.data.weight),
                lambda n, value: DataError(
                    f"{n} row(s) have a weight that is missing, negative, or not finite",
                    where=place,
                    got=value,
                    allowed="finite numbers >= 0",
                ),
            )
        )
    return checks


def _history_checks(rows: DataFrame, features: Sequence[PlannedFeature]) -> list[_Check]:
    """Check the time of every row that has a user, for each history; rows without one have no history."""
    checks: dict[tuple[str, str, str], _Check] = {}
    for feature in features:
        if feature.history is not None:
            user, name = feature.history.params["user"], feature.history.params["time"]
            there, place = user_column(rows, user).isNotNull(), f"{feature.where}.history.time: {name}"
            missing, unreadable = time_problems(rows, name)
            for bad, what in ((missing, "no time"), (unreadable, "a time that cannot be read")):
                checks.setdefault((user, name, what), _time_check(there & bad, what, place, name))
    return list(checks.values())


def _time_check(bad: Column, what: str, place: str, name: str) -> _Check:
    def error(count: int, value: str) -> DataError:
        return DataError(
            f"{count} row(s) have a user but {what}",
            where=place,
            got=value or None,
            allowed="numbers, timestamps, dates, or text of them",
            fixes=["remove those rows", "name another column"],
        )

    return _Check(bad, C.column(name), error)


def _with_dense_steps(rows: DataFrame, features: Sequence[PlannedFeature]) -> DataFrame:
    """Add each dense feature after all its ops, and before each op that `_checked_places` names."""
    chains: dict[str, tuple[Column, Sequence[FittedOp]]] = {}
    for number, feature in enumerate(features):
        if feature.kind == "dense":
            x = C.number(rows, feature.column, where=f"dense feature {feature.name!r}")
            waiting = _after_fitting(feature.ops)
            for place in [*_checked_places(feature.ops), len(feature.ops)]:
                ops = [_stand_in(op) for n, op in enumerate(feature.ops[:place]) if n not in waiting]
                chains[_step(number, place)] = (x, ops)
    return with_dense(rows, chains)


def _step(number: int, place: int) -> str:
    return f"__step_{number}_{place}"


def _checked_places(ops: Sequence[FittedOp]) -> list[int]:
    """Return the places of ops that refuse values, or whose statistics need finite ones."""
    refusing = [n for n, op in enumerate(ops) if feature_ops("dense")[op.name].refuses is not None]
    fitted = [n for n, op in enumerate(ops) if statistics_of(op)]
    return sorted({*refusing, *fitted} - _after_fitting(ops))


def _after_fitting(ops: Sequence[FittedOp]) -> set[int]:
    """Return the places of refusing ops that get values which depend on fitted numbers."""
    moved = [n for n, op in enumerate(ops) if feature_ops("dense")[op.name].from_train]
    first = moved[0] if moved else len(ops)
    return {n for n, op in enumerate(ops) if n > first and feature_ops("dense")[op.name].refuses is not None}


def _stand_in(op: FittedOp) -> FittedOp:
    """Return the op with made-up statistics: which values are missing or infinite does not depend on them."""
    made = {name: 0.0 for name, value in op.params.items() if value in ("mean", "median")}
    fitted = {name: float(name == "std") for name in feature_ops("dense")[op.name].from_train}
    return FittedOp(name=op.name, params={**op.params, **made, **fitted})


def check_fitted(rows: DataFrame, features: Sequence[PlannedFeature], fitted: Sequence[Feature]) -> None:
    """Check the values that the survey could not know: those of refusing ops behind fitted ones.

    Args:
        rows: raw rows.
        features: as planned.
        fitted: the same features with their numbers.

    Raises:
        DataError: such an op refuses a value.
    """
    chains: dict[str, tuple[Column, Sequence[FittedOp]]] = {}
    checks: list[_Check] = []
    for number, (feature, known) in enumerate(zip(features, fitted, strict=True)):
        if feature.kind == "dense":
            for place in sorted(_after_fitting(feature.ops)):
                chains[_step(number, place)] = (C.number(rows, feature.column), known.ops[:place])
                checks.append(_refusal_check(feature, number, place))
    if not checks:
        return
    rows = with_dense(rows, chains)
    found = rows.agg(*[_count(check.bad).alias(f"bad_{n}") for n, check in enumerate(checks)]).first()
    assert found is not None
    _raise_problems(rows, checks, list(found))


def _dense_checks(rows: DataFrame, number: int, feature: PlannedFeature) -> list[_Check]:
    place, name = f"{feature.where}: column {feature.column!r}", f"dense feature {feature.name!r}"
    text = C.not_a_number(rows, feature.column)
    checks = [
        _Check(
            text.isNotNull(),
            text,
            lambda n, value: DataError(
                f"{name} has {n} value(s) that are no numbers",
                where=place,
                got=value,
                fixes=["move the column to features.sparse", "mend the source"],
            ),
        )
    ]
    told, clip = F.lit(False), "clip: {min: ..., max: ...}"
    for step in _checked_places(feature.ops):
        op = feature.ops[step]
        if statistics_of(op):
            x = F.col(_step(number, step))
            what = f"{name} has {{}} infinite value(s) where `{op.name}` needs its statistics"
            error = _finite_error(what, place, f"put `{clip}` before `{op.name}`")
            checks.append(_Check(_infinite(x) & ~told, x, error))
            told = told | F.coalesce(_infinite(x), F.lit(False))
        if feature_ops("dense")[op.name].refuses is not None:
            checks.append(_refusal_check(feature, number, step))
    x = F.col(_step(number, len(feature.ops)))
    problems = {
        "missing (null or NaN)": (x.isNull() & text.isNull(), "fill: 0 (or mean, median)"),
        "infinite": (_infinite(x) & ~told, clip),
    }
    for word, (bad, fix) in problems.items():
        checks.append(_Check(bad, x, _finite_error(f"{name} has {{}} {word} value(s)", place, fix)))
    return checks


def _infinite(x: Column) -> Column:
    """Return whether a value is beyond what a 32-bit float holds."""
    return (F.abs(x) > _LARGEST_FLOAT) | F.isnan(x)


def _refusal_check(feature: PlannedFeature, number: int, step: int) -> _Check:
    op, x = feature.ops[step].name, F.col(_step(number, step))
    refuses = feature_ops("dense")[op].refuses
    assert refuses is not None

    def error(count: int, value: str) -> DataError:
        return DataError(
            f"dense feature {feature.name!r} has {count} value(s) that `{op}` cannot take: {refuses.because}",
            where=f"{feature.where}: column {feature.column!r}",
            got=value,
            fixes=[refuses.fix],
        )

    return _Check(refuses.of(x), x, error)


def _finite_error(text: str, place: str, fix: str) -> Callable[[int, str], DataError]:
    return lambda n, value: DataError(
        text.format(n),
        where=place,
        got=value or None,
        allowed=f"finite numbers up to {_LARGEST_FLOAT}",
        fixes=[fix],
    )


def _id_check(x: Column, listed: bool, feature: PlannedFeature) -> _Check:
    if listed:
        wrong = F.filter(x, lambda t: ~t.rlike(RAW_ID))
        bad, shown = F.size(wrong) > 0, F.when(F.size(wrong) > 0, wrong[0])
    else:
        bad, shown = ~x.rlike(RAW_ID), x
    return _Check(
        bad,
        shown,
        lambda n, value: DataError(
            f"feature {feature.name!r} has {n} row(s) whose id is negative, too large, or no integer",
            where=f"{feature.where}: column {feature.column!r}",
            got=value,
            allowed="integers from 0 to 999999999999999999",
            fixes=["ops: [vocabulary] numbers any values", "ops: [{hash: 1000000}]"],
        ),
    )


def _largest_id(x: Column, listed: bool) -> Column:
    if listed:
        return F.array_max(F.transform(x, lambda t: F.when(t.rlike(RAW_ID), t.cast("bigint"))))
    return F.when(x.rlike(RAW_ID), x.cast("bigint"))


def source_name(run: RunConfig) -> str:
    """Return what the rows come from, for errors."""
    source = run.data.source
    return "the DataFrame" if source is None else f"data.source: {source.path or source.table}"
