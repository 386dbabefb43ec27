"""Times of raw rows: checked where a split needs them, compared with those of the config, and with now."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.preparation import columns as C
from trainer.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, Row

_CALENDAR = (T.DateType, T.TimestampType, T.TimestampNTZType)


def time_facts(rows: DataFrame, name: str) -> list[Column]:
    """Return aggregates over a time column: `missing`, `bad`, `example` of the bad ones, and `late`.

    A time is late when it is after now; numbers are seconds since 1970, as features read them.
    """
    missing, bad = C.time_problems(rows, name)
    return [
        F.count(F.when(missing, 1)).alias("missing"),
        F.count(F.when(bad, 1)).alias("bad"),
        F.min(F.when(bad, C.column(name).cast("string"))).alias("example"),
        F.count(F.when(_after_now(rows, name), 1)).alias("late"),
    ]


def summed_facts() -> list[Column]:
    """Return aggregates that put the `time_facts` of groups together."""
    sums = [F.sum(name).alias(name) for name in ("missing", "bad", "late")]
    return [*sums, F.min("example").alias("example")]


def require_times(found: Row, where: str, otherwise: str) -> None:
    """Check what `time_facts` found.

    Args:
        found: the facts.
        where: place for errors.
        otherwise: what to do about rows without a time, besides removing them.

    Raises:
        DataError: a time is missing or cannot be read.
    """
    if found["missing"] or found["bad"]:
        raise DataError(
            f"{found['missing']} row(s) have no time and {found['bad']} have one that cannot be read",
            where=where,
            got=found["example"],
            allowed="numbers, timestamps, dates",
            fixes=["remove those rows", otherwise],
        )


def late_remarks(late: int | None, where: str) -> list[str]:
    """Return what the report should say about rows whose time is after now."""
    return [f"times after now: {late:,} rows ({where})"] if late else []


def check_times(rows: DataFrame, name: str) -> int:
    """Return the number of rows.

    Raises:
        DataError: a time is missing or cannot be read.
    """
    found = rows.agg(F.count(F.lit(1)).alias("rows"), *time_facts(rows, name)).first()
    assert found is not None
    require_times(found, f"data.split.column: {name}", "data.split.method: random")
    return int(found["rows"])


def moment(rows: DataFrame, name: str, value: str | int | float) -> int | Decimal:
    """Return a time of the config as `columns.time` gives those of a column.

    Raises:
        ConfigError: it is no time, or a date for a column of numbers, or a number for one of dates.
    """
    kind = rows.schema[name].dataType
    calendar, is_word = isinstance(kind, _CALENDAR), isinstance(value, str)
    given = rows.sparkSession.createDataFrame([(str(value),)], "value string")
    if calendar and is_word:
        given = given.select(F.expr("try_cast(value as timestamp)").alias("value"))
    elif calendar or (is_word and not C.is_text(kind)):
        given = given.limit(0)
    read = given.select(C.time(given, "value")).first()
    if read is None or read[0] is None:
        raise ConfigError(
            "this is no time of the column's kind",
            where=f"data.split.until (column {name!r})",
            got=value,
            allowed=f"what compares with {kind.simpleString()}: "
            + (
                "dates such as 2024-01-31"
                if calendar
                else "numbers"
                if not C.is_text(kind)
                else "numbers, dates"
            ),
        )
    found: int | Decimal = read[0]
    return found


def time_warnings(rows: DataFrame, times: Mapping[str, str]) -> list[str]:
    """Return what the report should say about times after now; numbers are seconds since 1970.

    Args:
        rows: with the columns.
        times: key path and column of each time.
    """
    if not times:
        return []
    counts = [F.count(F.when(_after_now(rows, name), 1)) for name in times.values()]
    found = rows.agg(*[count.alias(str(n)) for n, count in enumerate(counts)]).first()
    assert found is not None
    return [line for late, where in zip(found, times, strict=True) for line in late_remarks(late, where)]


def _after_now(rows: DataFrame, name: str) -> Column:
    kind, sql = rows.schema[name].dataType, C.quoted(name)
    if C.is_text(kind):
        # Numbers first: Spark would read the text `2021` as a timestamp too.
        seconds = f"coalesce(try_cast({sql} as double), unix_micros(try_cast({sql} as timestamp)) / 1e6)"
    elif isinstance(kind, _CALENDAR):
        seconds = f"unix_micros(cast({sql} as timestamp)) / 1e6"
    elif isinstance(kind, T.NumericType):
        seconds = f"cast({sql} as double)"
    else:
        return F.lit(False)
    now = datetime.datetime.now(datetime.timezone.utc).timestamp()
    return F.expr(f"nanvl({seconds}, null)") > F.lit(now)
