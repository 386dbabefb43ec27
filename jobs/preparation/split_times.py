"""Times of raw rows: checked where a split needs them, compared with those of the config, and with now."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.preparation import columns as C
from trainer.config.time_formats import likely_format
from trainer.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, Row

FIRST_OF_OUR_DAYS = 631152000.0
"""1990 in seconds since 1970; data of these days has no older times."""
_CALENDAR = (T.DateType, T.TimestampType, T.TimestampNTZType)


def time_facts(rows: DataFrame, name: str) -> list[Column]:
    """Return aggregates over a time column: `missing`, `bad`, `example` of the bad ones, and `span`.

    The span holds `late`, how many times are after now, and `oldest` and `newest` of times that are numbers,
    which are seconds since 1970, as features read them.
    """
    missing, bad = C.time_problems(rows, name)
    return [
        F.count(F.when(missing, 1)).alias("missing"),
        F.count(F.when(bad, 1)).alias("bad"),
        F.min(F.when(bad, C.column(name).cast("string"))).alias("example"),
        _span(rows, name).alias("span"),
    ]


def summed_facts() -> list[Column]:
    """Return aggregates that put the `time_facts` of groups together."""
    sums = [F.sum(name).alias(name) for name in ("missing", "bad")]
    late, oldest, newest = F.sum("span.late"), F.min("span.oldest"), F.max("span.newest")
    span = F.struct(late.alias("late"), oldest.alias("oldest"), newest.alias("newest"))
    return [*sums, F.min("example").alias("example"), span.alias("span")]


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


def span_remarks(span: Row | None, where: str, name: str) -> list[str]:
    """Return what the report should say about the span of a time column, see `time_facts`.

    Args:
        span: what was found; None where there are no rows.
        where: key path.
        name: of the column.
    """
    if span is None or span["late"] is None:
        return []
    late = [f"times after now: {span['late']:,} rows ({where})"] if span["late"] else []
    numbers = [span["oldest"], span["newest"]]
    form = None if None in numbers else likely_format(numbers)
    # Seconds of our days are no dates; what lies before 1990 or after now is no second of theirs.
    if form is None or not (late or span["newest"] < FIRST_OF_OUR_DAYS):
        return late
    return [*late, _digits_remark(numbers[0], numbers[1], where, name, form)]


def early_remarks(oldest: float, newest: float, where: str, name: str, per_second: int = 1) -> list[str]:
    """Return what the report should say about times that ops take parts of, where none lies in our days.

    Args:
        oldest: of the times, in seconds since 1970.
        newest: of the times.
        where: key path.
        name: of the column.
        per_second: what the numbers count, 1000 for milliseconds.
    """
    form = likely_format([oldest, newest]) if per_second == 1 else None
    now = datetime.datetime.now(datetime.timezone.utc).timestamp()
    if form is not None and not FIRST_OF_OUR_DAYS <= newest <= now:
        return [_digits_remark(oldest, newest, where, name, form)]
    if newest / per_second >= FIRST_OF_OUR_DAYS:
        return []
    unit = "seconds" if per_second == 1 else "milliseconds"
    return [f"times before 1990: all rows ({where}), the newest {newest:,.0f} {unit} after 1970 began"]


def _digits_remark(oldest: float, newest: float, where: str, name: str, form: str) -> str:
    return (
        f"times from {oldest:.0f} to {newest:.0f} count as seconds since 1970 ({where}): where these digits "
        f'are dates, data.time_formats: {{{name}: "{form}"}}'
    )


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
    """Return what the report should say about the spans of times, see `time_facts`.

    Args:
        rows: with the columns.
        times: key path and column of each time.
    """
    if not times:
        return []
    found = rows.agg(*[_span(rows, name).alias(str(n)) for n, name in enumerate(times.values())]).first()
    assert found is not None
    spans = zip(found, times.items(), strict=True)
    return [line for span, (where, name) in spans for line in span_remarks(span, where, name)]


def _span(rows: DataFrame, name: str) -> Column:
    """Return an aggregate: the number of times after now, and the span of those that are numbers."""
    kind, sql = rows.schema[name].dataType, C.quoted(name)
    number = moment = "cast(null as double)"
    if C.is_text(kind):
        # Numbers first: Spark would read the text `2021` as a timestamp too.
        number, moment = f"try_cast({sql} as double)", f"unix_micros(try_cast({sql} as timestamp)) / 1e6"
    elif isinstance(kind, _CALENDAR):
        moment = f"unix_micros(cast({sql} as timestamp)) / 1e6"
    elif isinstance(kind, T.NumericType):
        number = f"cast({sql} as double)"
    seconds = F.expr(f"nanvl(coalesce({number}, {moment}), null)")
    now = datetime.datetime.now(datetime.timezone.utc).timestamp()
    numbers = F.expr(f"nanvl({number}, null)")
    return F.struct(
        F.count(F.when(seconds > F.lit(now), 1)).alias("late"),
        F.min(numbers).alias("oldest"),
        F.max(numbers).alias("newest"),
    )
