"""Deals each user's newest events into test, those before them into valid, the others into train."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.split_times import require_times, span_remarks, summed_facts, time_facts
from trainer.config import LeaveLastConfig
from trainer.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_USER = "__split_user"


def check_leave_last(rows: DataFrame, split: LeaveLastConfig) -> list[str]:
    """Check users and times in one pass.

    Args:
        rows: raw rows.
        split: names their columns.

    Returns:
        Remarks on times after now, and on the users with too few events.

    Raises:
        DataError: a user or time is missing or cannot be read, or `short_users: error` and there is one.
    """
    users = rows.groupBy(C.token(rows, split.user).alias(_USER)).agg(
        F.count(F.lit(1)).alias("events"), *time_facts(rows, split.time)
    )
    least = split.test + split.valid + 1
    short = (F.col("events") < least) & F.col(_USER).isNotNull()
    found = users.agg(
        F.sum(F.when(F.col(_USER).isNull(), F.col("events"))).alias("nobody"),
        *summed_facts(),
        F.count(F.when(short, 1)).alias("users"),
        F.sum(F.when(short, F.col("events"))).alias("events"),
        F.min(F.when(short, F.col(_USER))).alias("user"),
    ).first()
    assert found is not None
    if found["nobody"]:
        raise DataError(
            f"{found['nobody']} row(s) have no user",
            where=f"data.split.leave_last.user: {split.user}",
            fixes=["remove those rows", "name another column"],
        )
    where = f"data.split.leave_last.time: {split.time}"
    require_times(found, where, "data.source.row_number gives rows in file order a number")
    late = span_remarks(found["span"], where, split.time)
    if not found["users"]:
        return late
    if split.short_users == "error":
        raise DataError(
            f"{found['users']} user(s) have fewer than {least} events",
            where=f"data.split.leave_last.user: {split.user}",
            got=found["user"],
            allowed=f"test {split.test} + valid {split.valid} + at least 1 to train on",
            fixes=["short_users: train", "short_users: drop", "a smaller `test` or `valid`"],
        )
    done = {"train": "all in train", "drop": "dropped"}[split.short_users]
    few = f"{found['users']} users have fewer than {least} events: their {found['events']} rows are {done}"
    return [*late, few]


def with_leave_last(rows: DataFrame, split: LeaveLastConfig) -> DataFrame:
    """Add the column `SPLIT`.

    A user's events are ordered by time, then by `order_by` (as numbers where they read as such, else as
    text), then by the row's hash; the last ones are the newest.

    Args:
        rows: with `HASH` and `ORDER` (see `with_row_hashes`), checked by `check_leave_last`.
        split: columns and numbers of events.
    """
    rows = rows.withColumn(_USER, C.token(rows, split.user))
    events = F.count(F.lit(1)).over(Window.partitionBy(_USER))
    keys = [C.time(rows, split.time), *(key for name in split.order_by for key in tie_keys(rows, name))]
    newest = Window.partitionBy(_USER).orderBy(*[k.desc() for k in (*keys, F.col(C.ORDER), F.col(C.HASH))])
    place, short = F.row_number().over(newest), events < split.test + split.valid + 1
    named = (
        F.when(short, "short")
        .when(place <= split.test, "test")
        .when(place <= split.test + split.valid, "valid")
        .otherwise("train")
    )
    rows = rows.withColumn(C.SPLIT, named)
    if split.short_users == "drop":
        return rows.where(F.col(C.SPLIT) != "short").drop(_USER)
    train = F.when(F.col(C.SPLIT) == "short", "train").otherwise(F.col(C.SPLIT))
    return rows.withColumn(C.SPLIT, train).drop(_USER)


def tie_keys(rows: DataFrame, name: str) -> list[Column]:
    """Return what orders rows of equal time by a column: as numbers where they read as such, then as text."""
    if C.is_text(rows.schema[name].dataType):
        return [C.number(rows, name), C.column(name)]
    return [C.column(name)]
