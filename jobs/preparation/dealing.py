"""Deals staged rows into splits, and adds what is made of several rows: derived features, label, weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.derived import fit_derived, with_derived
from jobs.preparation.labels import downsampled, label_value, weight_value
from jobs.preparation.planned import PlannedFeature
from jobs.preparation.split_times import early_remarks, time_warnings
from jobs.preparation.splits import split_remarks, with_split
from jobs.preparation.staging import Staged
from trainer.config import RunConfig
from trainer.schema import SplitName

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def deal(
    staged: Staged,
    run: RunConfig,
    folder: Path,
    spark: SparkSession,
    *,
    into: SplitName | None = None,
    fitted_in: Path | None = None,
) -> tuple[DataFrame, list[PlannedFeature]]:
    """Return the rows with splits, labels and the columns of derived features, and the fitted features.

    Rows of earlier days are seen by derived features, and left out of what is returned.

    Args:
        staged: the rows and their features.
        run: the run config.
        folder: of the data set under construction.
        spark: the session.
        into: split of all rows, in place of what the config says.
        fitted_in: data set whose fitted numbers and encodings the features have already.
    """
    rows, before = _days(staged.rows)
    if into is not None:
        rows = rows.drop(C.FILE).withColumn(C.SPLIT, F.lit(into))
    elif C.SPLIT not in rows.columns:
        staged.remarks.extend(split_remarks(rows, run.data.split))
        rows = with_split(rows, run.data.split)
    staged.remarks.extend(time_warnings(rows, _other_times(run, staged.features)))
    rows = downsampled(rows, run)
    if before is not None:
        rows = rows.unionByName(before)
    label = label_value(rows, run.data.first_task)
    if C.NEGATIVE in rows.columns:  # nobody gave these labels, so no rate is made of them
        label = F.when(~F.col(C.NEGATIVE), label)
    features = staged.features
    if fitted_in is None:
        features = fit_derived(rows, features, label, folder, spark)
    if any(feature.derived is not None for feature in features):
        rows, users = _events_and_users(rows, features)
        rows = with_derived(rows, features, label, fitted_in or folder, spark, fitted=fitted_in is not None)
        rows = rows if users is None else rows.unionByName(users)
    if before is not None:
        rows = rows.where(F.col(C.SPLIT) != C.BEFORE)
    made = {C.label(task.number): label_value(rows, task) for task in run.data.tasks}
    weight = weight_value(rows, run.data)
    if weight is not None:
        made[C.WEIGHT] = weight.cast("float")
    rows = rows.withColumns(made)
    # A derived column costs a sort of the rows each time.
    return (rows.persist() if any(feature.derived for feature in features) else rows), features


def op_time_remarks(
    run: RunConfig, features: Sequence[PlannedFeature], spans: Mapping[str, Sequence[float]]
) -> list[str]:
    """Return what the report should say about columns that ops read as times, all of them before 1990.

    Args:
        run: the run config.
        features: planned.
        spans: oldest and newest time of features, in seconds since 1970, see `survey`.
    """
    remarks: dict[str, list[str]] = {}
    for feature in features:
        if feature.name in spans and feature.derived is None:
            thousandths = feature.ops[0].name == "milliseconds"
            oldest, newest = spans[feature.name]
            where = f"{feature.where}.columns: {feature.column}"
            found = early_remarks(oldest, newest, where, feature.column, 1000 if thousandths else 1)
            remarks.setdefault(feature.column, found)
    told = {run.data.split.column, *_other_times(run, features).values()}
    return [line for name, lines in remarks.items() if name not in told for line in lines]


def _days(rows: DataFrame) -> tuple[DataFrame, DataFrame | None]:
    """Return the rows to be dealt, and those of the days before, if there are any."""
    if C.OLD not in rows.columns:
        return rows, None
    before = rows.where(F.col(C.OLD)).drop(C.OLD, C.FILE)
    return rows.where(~F.col(C.OLD)).drop(C.OLD), before.withColumn(C.SPLIT, F.lit(C.BEFORE))


def _events_and_users(
    rows: DataFrame, features: Sequence[PlannedFeature]
) -> tuple[DataFrame, DataFrame | None]:
    """Return the rows that derived features are made of, and those of users, which have them already."""
    if C.USER_ROW not in rows.columns:
        return rows, None
    derived = [feature.column for feature in features if feature.derived is not None]
    return rows.where(~F.col(C.USER_ROW)).drop(*derived), rows.where(F.col(C.USER_ROW))


def _other_times(run: RunConfig, features: Sequence[PlannedFeature]) -> dict[str, str]:
    """Return key path and column of the times that features are made by, but for that of the split."""
    last = run.data.split.leave_last
    seen = {run.data.split.column if last is None else last.time}
    times: dict[str, str] = {}
    for feature in features:
        name = None if feature.derived is None else feature.derived.params.get("time")
        if feature.derived is not None and name is not None and name not in seen:
            seen.add(name)
            times[f"{feature.where}.{feature.derived.name}.time: {name}"] = name
    return times
