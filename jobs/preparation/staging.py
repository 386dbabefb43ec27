"""From a source to the rows that features are made of: joined, hashed, cleaned, with their negatives."""

from __future__ import annotations

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
from jobs.preparation.labels import label_condition
from jobs.preparation.negatives import adds_rows, with_negatives
from jobs.preparation.planned import PlannedFeature, plan_features, source_columns
from jobs.preparation.row_checks import source_name
from jobs.preparation.row_hashes import with_row_hashes
from jobs.preparation.sources import require_columns, rows_and_columns
from jobs.preparation.splits import split_remarks, with_split
from trainer.config import DataConfig, RunConfig, SplitConfig
from trainer.features import chains
from trainer.schema import CleaningStep, SplitName

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


@dataclass(frozen=True)
class Staged:
    """The rows to be prepared.

    Attributes:
        rows: the raw columns that the run needs, `HASH`, `ORDER`, `BAD_LINE`, and `matched` of each side
            table; `SPLIT`, `NEGATIVE` and `GROUP` where negatives were added, `SPLIT` also where `leave_last`
            deals the rows, `OLD` where the rows of earlier days were given again.
        features: planned.
        cleaning: what each rule dropped.
        remarks: for the report.
        source: the rows as they were read.
        own: the source's own columns.
    """

    rows: DataFrame
    features: list[PlannedFeature]
    cleaning: tuple[CleaningStep, ...]
    remarks: list[str]
    source: DataFrame
    own: tuple[str, ...]


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
        cached: releases what is cached here.
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
    features = plan_features(run, rows)
    rows = with_row_hashes(rows, own, data.split.seed)
    with named_source(source_name(run)):
        rows, cleaning = clean(rows, data.clean)
        if earlier is not None:
            rows, more = with_earlier_days(rows, own, run, earlier, spark)
            remarks += more
        if data.split.leave_last is not None or adds_rows(data.negatives):
            rows, more = _dealt(rows, data.split, into)
            remarks += more
        if adds_rows(data.negatives):
            rows = rows.persist()  # looked at for the items, the known pairs and the positives
            cached.callback(rows.unpersist)
            rows, more = with_negatives(rows, run, own, spark, scratch, new_items=new_items)
            remarks += more
    rows = C.with_numbers(rows, [name for name in (data.label.column, data.weight) if name is not None])
    needed = [name for names in named.values() for name in names]
    for feature in features:
        needed += chains.raw_columns(feature) if feature.derived is None else source_columns(feature.derived)
    time = time_column(run, features, have)
    needed += [time] if time is not None else []
    kept = [C.column(name) for name in dict.fromkeys(needed)]
    kept += [C.column(name) for name in rows.columns if name.startswith(C.NUMBER)]
    own_marks = (C.SPLIT, C.OLD, C.NEGATIVE, C.GROUP, C.HASH, C.ORDER, C.BAD_LINE, C.FILE, *matches)
    marks = [C.column(name) for name in own_marks if name in rows.columns]
    made = _events(rows, features)
    if data.label.where is not None:
        made.append(label_condition(rows, data.label.where).alias(C.LABEL_CONDITION))
    chosen = rows.select(*kept, *made, *marks)
    return Staged(chosen, features, cleaning, remarks, source, tuple(own))


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
        "data.label.column": data.label.column,
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
