"""Times of a split by time: those of the rows, those of the config, and those that are yet to come."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.preparation import columns as C
from trainer.config import SplitConfig
from trainer.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_CALENDAR = (T.DateType, T.TimestampType, T.TimestampNTZType)


def check_times(rows: DataFrame, name: str) -> int:
    """Return the number of rows.

    Raises:
        DataError: a time is missing or cannot be read.
    """
    missing, bad = C.time_problems(rows, name)
    found = rows.agg(
        F.count(F.lit(1)).alias("rows"),
        F.count(F.when(missing, 1)).alias("missing"),
        F.count(F.when(bad, 1)).alias("bad"),
        F.min(F.when(bad, C.column(name).cast("string"))).alias("example"),
    ).first()
    assert found is not None
    if found["missing"] or found["bad"]:
        raise DataError(
            f"{found['missing']} row(s) have no time and {found['bad']} have one that cannot be read",
            where=f"data.split.column: {name}",
            got=found["example"],
            allowed="numbers, timestamps, dates",
            fixes=["remove those rows", "data.split.method: random"],
        )
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


def time_warnings(rows: DataFrame, split: SplitConfig) -> tuple[str, ...]:
    """Return a line for the report where rows have a time later than now; the unit of numbers is unknown."""
    if split.method != "time" or split.column is None:
        return ()
    kind, sql = rows.schema[split.column].dataType, C.quoted(split.column)
    if isinstance(kind, _CALENDAR):
        x = F.expr(f"unix_micros(cast({sql} as timestamp))")
    elif C.is_text(kind):
        x = F.expr(f"if(try_cast({sql} as double) is null, unix_micros(try_cast({sql} as timestamp)), null)")
    else:
        return ()
    now = int(datetime.datetime.now(datetime.timezone.utc).timestamp() * 1_000_000)
    found = rows.agg(F.count(F.when(x > F.lit(now), 1))).first()
    late = int(found[0]) if found is not None else 0
    return (f"times after now: {late:,} rows (data.split.column: {split.column})",) if late else ()
