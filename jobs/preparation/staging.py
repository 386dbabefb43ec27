"""From a source to the rows that features are made of: joined, hashed, cleaned, with their negatives."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.cleaning import clean
from jobs.preparation.conditions import event_counts
from jobs.preparation.earlier_days import EarlierDays, with_earlier_days
from jobs.preparation.failures import named_source
from jobs.preparation.histories import counts_column
from jobs.preparation.label_times import time_column
from jobs.preparation.labels import label_conditions
from jobs.preparation.negatives import adds_rows, with_negatives
from jobs.preparation.planned import DERIVED_PREFIX, PlannedFeature, plan_features, source_columns
from jobs.preparation.row_checks import source_name
from jobs.preparation.row_hashes import with_row_hashes
from jobs.preparation.sources import require_columns, rows_and_columns
from jobs.preparation.splits import split_remarks, with_split
from jobs.preparation.target_feature import with_target
from jobs.preparation.user_events import Events, check_columns, check_events, check_one_split
from jobs.preparation.user_rows import with_list_columns, with_listed_histories, with_user_rows
from trainer.config import DataConfig, RunConfig, SplitConfig
from trainer.features import chains
from trainer.records import CleaningStep
from trainer.schema import SplitName

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

_MARKS = (C.SPLIT, C.OLD, C.NEGATIVE, C.GROUP, C.USER_ROW, C.HASH, C.ORDER, C.BAD_LINE, C.FILE)


@dataclass(frozen=True)
class Staged:
    """The rows to be prepared.

    Attributes:
        rows: the raw columns that the run needs, `HASH`, `ORDER`, `BAD_LINE`, and `matched` of each side
            table; `SPLIT`, `NEGATIVE` and `GROUP` where negatives were added, `SPLIT` also where `leave_last`
            deals the rows, and with `USER_ROW` where some are those of users, `OLD` where the rows of earlier
            days were given again.
        features: planned.
        cleaning: what each rule dropped.
        remarks: for the report.
        source: the rows as they were read.
        own: the source's own columns.
        events: how many events rows of users are made of.
    """

    rows: DataFrame
    features: list[PlannedFeature]
    cleaning: tuple[CleaningStep, ...]
    remarks: list[str]
    source: DataFrame
    own: tuple[str, ...]
    events: Events | None = None


def stage(
    run: RunConfig,
    spark: SparkSession,
    frame: DataFrame | None,
    scratch: Path,
    cached: ExitStack,
    earlier: EarlierDays | None = None,
    *,
    into: SplitName | None = None,
    new_items: bool = True,
) -> Staged:
    """Read, join, clean; deal rows into splits and add negatives where a user's rows are looked at together.

    Args:
        run: the run config.
        spark: the session.
        frame: raw rows to take instead of `data.source`.
        scratch: folder for tables of no use once the rows have been written.
        cached: releases what is cached here: the rows, too, but where `parquet_scan` decides that.
        earlier: raw rows of the days before, to be looked at together with these.
        into: split of all rows but those, in place of what the config says.
        new_items: whether items that only new rows have may be drawn as negatives.

    Raises:
        ConfigError: the config does not fit the raw columns.
        DataError: the rows cannot be used.
    """
    remarks: list[str] = []
    source, own = rows_and_columns(run, spark, frame, remarks)
    rows = source
    data = run.data
    matches = [C.matched(number) for number in range(len(data.joins))]
    have = [name for name in rows.columns if name not in (C.BAD_LINE, C.FILE, *matches)]
    named = _named_columns(data)
    for where, names in named.items():
        require_columns(names, have, where)
    events, users = None, data.user_rows
    if users is not None:
        check_columns(rows, users, have)
    features = plan_features(run, rows if users is None else with_list_columns(rows, users))
    features = with_target(features, run)
    rows = with_row_hashes(rows, own, data.split.seed)
    with named_source(source_name(run)):
        rows, cleaning = clean(rows, data.clean)
        if earlier is not None:
            rows, more = with_earlier_days(rows, own, run, earlier, spark)
            remarks += more
        if users is not None:
            events = check_events(rows, run, users)
        if data.split.leave_last is not None or adds_rows(data.negatives) or users is not None:
            rows, more = _dealt(rows, data.split, into)
            remarks += more
        if adds_rows(data.negatives):
            rows = rows.persist()  # looked at for the items, the known pairs and the positives
            cached.callback(rows.unpersist)
            rows, more = with_negatives(rows, run, own, spark, scratch, new_items=new_items)
            remarks += more
        if users is not None:
            check_one_split(rows, run, users)
            rows = with_listed_histories(with_user_rows(rows, run, users), features, users)
    chosen = _selected(rows, run, features, have, named)
    if frame is not None or into is not None or not scannable(run):
        cached.callback(chosen.persist().unpersist)
    return Staged(chosen, features, cleaning, remarks, source, tuple(own), events)


def _selected(
    rows: DataFrame,
    run: RunConfig,
    features: list[PlannedFeature],
    have: list[str],
    named: Mapping[str, list[str]],
) -> DataFrame:
    """Return the columns that the run needs of the raw ones, whose names `have` holds, and the marks."""
    data = run.data
    numbers = [*(task.label.column for task in data.tasks), data.weight]
    rows = C.with_numbers(rows, [name for name in numbers if name is not None])
    needed = [name for names in named.values() for name in names]
    for feature in features:
        needed += chains.raw_columns(feature) if feature.derived is None else source_columns(feature.derived)
    time = time_column(run, features, have)
    needed += [time] if time is not None else []
    kept = [C.column(name) for name in dict.fromkeys(needed)]
    kept += [C.column(name) for name in rows.columns if name.startswith((C.NUMBER, DERIVED_PREFIX))]
    own = [*_MARKS, *(C.matched(number) for number in range(len(data.joins)))]
    marks = [C.column(name) for name in own if name in rows.columns]
    made = _events(rows, features) + label_conditions(rows, data.tasks)
    return rows.select(*kept, *made, *marks)


def _dealt(rows: DataFrame, split: SplitConfig, into: SplitName | None) -> tuple[DataFrame, list[str]]:
    """Return the rows with `SPLIT`, those of earlier days as such, and remarks."""
    new = rows.where(~F.col(C.OLD)) if C.OLD in rows.columns else rows
    remarks = split_remarks(new, split) if into is None else []
    dealt = with_split(new, split) if into is None else new.withColumn(C.SPLIT, F.lit(into))
    if new is rows:
        return dealt, remarks
    before = rows.where(F.col(C.OLD)).withColumn(C.SPLIT, F.lit(C.BEFORE))
    return dealt.unionByName(before, allowMissingColumns=True), remarks


def _named_columns(data: DataConfig) -> dict[str, list[str]]:
    """Return the raw columns that the config names outside the features, by key."""
    last, weights, negatives = data.split.leave_last, data.weights_by, data.negatives
    single = {
        **{f"{task.key}.column": task.label.column for task in data.tasks},
        "data.weight": data.weight,
        "data.weights_by.column": weights.column if weights is not None else None,
        "data.split.column": data.split.column,
        "data.split.by": data.split.by,
        "data.negatives.item": negatives.item if negatives is not None else None,
    }
    found = {where: [name] for where, name in single.items() if name is not None}
    found["data.keep"] = list(data.keep)
    found["data.time_formats"] = list(data.time_formats)
    if last is not None:
        found["data.split.leave_last"] = [last.user, last.time, *last.order_by]
    return found


def _events(rows: DataFrame, features: list[PlannedFeature]) -> list[Column]:
    """Return for derived features whether a row is one of their events; a negative never happened."""
    found: list[Column] = []
    for feature in features:
        params = feature.derived.params if feature.derived is not None else {}
        if "where" not in params or (params["where"] is None and C.NEGATIVE not in rows.columns):
            continue
        assert feature.derived is not None
        counts = event_counts(rows, params["where"], f"{feature.where}.{feature.derived.name}.where")
        if C.NEGATIVE in rows.columns:
            counts = counts & ~F.col(C.NEGATIVE)
        found.append(counts.alias(counts_column(feature.name)))
    return found


def of_source(rows: DataFrame) -> DataFrame:
    """Return the rows of the source itself: what is fitted and counted has no negatives in it."""
    return rows.where(~F.col(C.NEGATIVE)) if C.NEGATIVE in rows.columns else rows


def scannable(run: RunConfig) -> bool:
    """Return whether nothing but the rows themselves, one by one, decides what becomes of them.

    `parquet_scan` then decides by the files.
    """
    data, features = run.data, run.features
    groups = [*features.dense, *features.sparse, *features.sequence]
    return (
        data.source is not None
        and data.source.table is None
        and data.source.row_number is None
        and not data.joins
        and not data.time_formats
        and data.clean == type(data.clean)()
        and data.label is not None
        and data.label.column is not None
        and data.label.kind == "binary"
        and data.label.positive_values is None
        and data.weight_column is None
        and data.downsample_negatives is None
        and data.negatives is None
        and data.user_rows is None
        and data.split.method == "random"
        and data.split.by is None
        and all(group.derived is None for group in groups)
    )
