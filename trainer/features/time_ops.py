"""Feature ops on times: float64 [N] seconds since 1970 in UTC, NaN where the time is missing."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, Field

from trainer.features.raw_values import iso_seconds
from trainer.features.registry import Example, Refusal, feature_op
from trainer.features.values import Floats

HOUR, DAY = 3600, 86400
UNITS = {"seconds": 1, "minutes": 60, "hours": HOUR, "days": DAY}
# A day less on both sides: local times must be in the calendar too.
_FIRST, _LAST = -62135510400.0, 253402214400.0


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError("must be the name of a time zone, such as `Europe/Berlin`") from error
    return name


def _as_text(value: Any) -> Any:
    """Return the text of a date or time that YAML has read already."""
    return value.isoformat() if isinstance(value, datetime.date) else value


def _a_moment(text: str) -> str:
    if iso_seconds(text) is None:
        raise ValueError("must be a date or time such as `2024-12-31` or `2024-12-31T23:00:00+01:00`")
    return text


def _a_date(text: str) -> str:
    seconds = iso_seconds(text)
    if seconds is None or len(text) != len("2024-12-31"):
        raise ValueError("must be a date such as `2024-12-31`")
    return text


TimeZone = Annotated[
    str, AfterValidator(_known_zone), Field(description="Name of a time zone, such as `Europe/Berlin`.")
]
Moment = Annotated[
    str,
    BeforeValidator(_as_text),
    AfterValidator(_a_moment),
    Field(description="Date or time, in UTC where it names no zone."),
]
Date = Annotated[str, BeforeValidator(_as_text), AfterValidator(_a_date)]

_outside = Refusal(
    lambda x: (x < _FIRST) | (x > _LAST),
    "the time must lie in the years 1 to 9999",
    "put `milliseconds` first where the column counts milliseconds since 1970",
)


@feature_op(
    "time",
    examples=(
        Example(
            ["milliseconds", "hour"], train=[1616893200500, 1616889600000, 0, -1], gives=[1.0, 0.0, 0.0, 23.0]
        ),
    ),
)
def milliseconds(x: Floats) -> Floats:
    """Read the numbers of the column as milliseconds since 1970; without it they are seconds."""
    return x / 1000


@feature_op(
    "time",
    gives="number",
    refuses=_outside,
    largest=lambda _: 23,
    examples=(
        Example(
            "hour",
            train=["2021-03-28", "2021-03-28 00:59:59", "2021-03-28T23:00:00Z", "2021-03-28 23:00:00+02:00"],
            gives=[0.0, 0.0, 23.0, 21.0],
        ),
        Example(
            [{"hour": "Europe/Berlin"}, "vocabulary"],
            train=["2021-03-28 00:59:59", "2021-03-28 01:00:00", "2021-03-28 01:30:00", None],
            gives=[3, 2, 2, 0],
        ),
    ),
)
def hour(x: Floats, time_zone: TimeZone = "UTC") -> Floats:
    """Take the hour of the day, 0 to 23."""
    return _of_local(x, time_zone, lambda seconds: seconds // HOUR % 24)


@feature_op(
    "time",
    gives="number",
    refuses=_outside,
    largest=lambda _: 6,
    examples=(
        Example(
            ["weekday", {"fill": -1}],
            train=["2024-01-01", "2024-01-02", "2024-01-07", None],
            gives=[0.0, 1.0, 6.0, -1.0],
        ),
    ),
)
def weekday(x: Floats, time_zone: TimeZone = "UTC") -> Floats:
    """Take the day of the week, from 0 for Monday to 6 for Sunday."""
    return _of_local(x, time_zone, lambda seconds: (seconds // DAY + 3) % 7)  # 1970 began on a Thursday


@feature_op(
    "time",
    gives="number",
    refuses=_outside,
    largest=lambda _: 31,
    examples=(
        Example(
            "day_of_month",
            train=["2024-01-01", "2024-02-29 12:00", "1969-12-31", "2024-07-14"],
            gives=[1.0, 29.0, 31.0, 14.0],
        ),
    ),
)
def day_of_month(x: Floats, time_zone: TimeZone = "UTC") -> Floats:
    """Take the day of the month, 1 to 31."""

    def of(seconds: NDArray[np.int64]) -> NDArray[Any]:
        days = _days(seconds)
        return np.asarray((days - days.astype("datetime64[M]")).astype(np.int64) + 1)

    return _of_local(x, time_zone, of)


@feature_op(
    "time",
    gives="number",
    refuses=_outside,
    largest=lambda _: 12,
    examples=(
        Example(
            "month",
            train=["2024-01-01", "2024-02-29", "1969-12-31", "2024-07-14"],
            gives=[1.0, 2.0, 12.0, 7.0],
        ),
    ),
)
def month(x: Floats, time_zone: TimeZone = "UTC") -> Floats:
    """Take the month, 1 to 12."""
    return _of_local(
        x, time_zone, lambda seconds: _days(seconds).astype("datetime64[M]").astype(np.int64) % 12 + 1
    )


@feature_op(
    "time",
    gives="number",
    refuses=_outside,
    largest=lambda _: 1,
    examples=(
        Example(
            {"holiday": ["2024-12-25", "2024-12-26"]},
            train=["2024-12-25 09:30:00", "2024-12-26", "2024-12-27", "2025-12-25"],
            gives=[1.0, 1.0, 0.0, 0.0],
        ),
    ),
)
def holiday(
    x: Floats, dates: Annotated[list[Date], Field(min_length=1)], time_zone: TimeZone = "UTC"
) -> Floats:
    """Take 1 on the given dates and 0 on other days."""
    given = np.array(dates, dtype="datetime64[D]")
    return _of_local(x, time_zone, lambda seconds: np.isin(_days(seconds), given))


@feature_op(
    "time",
    gives="number",
    examples=(
        Example(
            {"age": "2024-03-01"},
            train=["2024-02-28", "2024-03-01", "2024-03-02 12:00:00", "2023-03-01"],
            gives=[2.0, 0.0, -1.5, 366.0],
        ),
        Example(
            {"age": {"at": "2024-03-01T01:00:00+01:00", "unit": "hours"}},
            train=["2024-02-29", "2024-02-29 18:00:00", "2024-03-01", "2024-03-02"],
            gives=[24.0, 6.0, 0.0, -24.0],
        ),
    ),
)
def age(x: Floats, at: Moment, unit: Literal["seconds", "minutes", "hours", "days"] = "days") -> Floats:
    """Take the time that passes until a fixed moment; negative after it."""
    seconds = iso_seconds(at)
    assert seconds is not None, at
    return (seconds - x) / UNITS[unit]


def _days(seconds: NDArray[np.int64]) -> NDArray[np.datetime64]:
    return (seconds // DAY).astype("datetime64[D]")


def _of_local(x: Floats, time_zone: str, part: Callable[[NDArray[np.int64]], NDArray[Any]]) -> Floats:
    """Apply a function of whole local seconds since 1970 to the times that are there."""
    made = np.full(len(x), np.nan)
    there = (x >= _FIRST) & (x <= _LAST)
    seconds = np.floor(x[there]).astype(np.int64)
    made[there] = part(seconds if time_zone == "UTC" else seconds + _offsets(seconds, ZoneInfo(time_zone)))
    return made


def _offsets(seconds: NDArray[np.int64], zone: ZoneInfo) -> NDArray[np.int64]:
    """Return how many seconds local time is ahead of UTC, asking the calendar once or twice an hour."""

    def at(moments: NDArray[np.int64]) -> NDArray[np.int64]:
        found = (datetime.datetime.fromtimestamp(moment, zone).utcoffset() for moment in moments.tolist())
        return np.array([offset.total_seconds() for offset in found if offset is not None], dtype=np.int64)

    hours, places = np.unique(seconds // HOUR, return_inverse=True)
    first, last = at(hours * HOUR), at(hours * HOUR + HOUR - 1)
    offsets = first[places]
    changes = (first != last)[places]  # within the hour, as on Lord Howe Island
    offsets[changes] = at(seconds[changes])
    return offsets
