"""Ops on times against the calendars of pandas and Python."""

from __future__ import annotations

import datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import OpConfig
from trainer.features.ops import resolve_ops
from trainer.features.registry import OPS
from trainer.features.values import Floats

# Half hours of daylight saving (Lord Howe), a day left out (Apia), local mean time with odd seconds (Paris).
ZONES = ["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia", "Europe/Paris"]
PARTS = {"hour": "hour", "weekday": "dayofweek", "day_of_month": "day", "month": "month"}
moments = st.one_of(
    st.floats(-2.2e9, 4.1e9), st.integers(-2_200_000_000, 4_100_000_000).map(float), st.just(np.nan)
)


def apply(op: Any, x: Any) -> Floats:
    (resolved,) = resolve_ops([OpConfig.model_validate(op)], "dense", "here")
    made: Floats = OPS["time", resolved.name].function(np.array(x, dtype=np.float64), **resolved.params)
    assert made.dtype == np.float64
    return made


def local(x: list[float], zone: str) -> pd.DatetimeIndex:
    whole = ["NaT" if np.isnan(second) else int(np.floor(second)) for second in x]
    moments = np.array([np.datetime64(second, "s") for second in whole], dtype="datetime64[s]")
    return pd.DatetimeIndex(moments).tz_localize("UTC").tz_convert(ZoneInfo(zone))


@pytest.mark.parametrize("zone", ZONES)
@given(x=st.lists(moments, max_size=20))
def test_parts_of_the_local_time(zone: str, x: list[float]) -> None:
    there = local(x, zone)
    for op, attribute in PARTS.items():
        np.testing.assert_array_equal(apply({op: zone}, x), getattr(there, attribute), err_msg=op)


@pytest.mark.parametrize("zone", ZONES[1:])
def test_every_second_around_each_change_of_the_clock(zone: str) -> None:
    start = int(datetime.datetime(2011, 1, 1, tzinfo=datetime.timezone.utc).timestamp())
    hours = start + 3600 * np.arange(366 * 24)
    ahead = np.array([datetime.datetime.fromtimestamp(h, ZoneInfo(zone)).utcoffset() for h in hours.tolist()])
    changed = hours[1:][ahead[1:] != ahead[:-1]]
    assert len(changed) >= 2
    seconds = (changed[:, None] + np.arange(-3600, 3600, 7)).ravel().astype(float)
    np.testing.assert_array_equal(apply({"hour": zone}, seconds), local(seconds.tolist(), zone).hour)


def test_holidays_are_days_of_the_time_zone() -> None:
    eve = datetime.datetime(2024, 12, 24, 23, 30, tzinfo=datetime.timezone.utc).timestamp()
    dates = ["2024-12-25", "1969-12-31"]
    assert apply({"holiday": dates}, [eve, eve + 1800, eve + 88200, -1, 0]).tolist() == [0, 1, 0, 1, 0]
    assert apply({"holiday": {"dates": dates, "time_zone": "Europe/Berlin"}}, [eve, -1]).tolist() == [1, 0]
    assert np.isnan(apply({"holiday": dates}, [np.nan])).all()


@pytest.mark.parametrize(
    ("unit", "seconds"), [("seconds", 1), ("minutes", 60), ("hours", 3600), ("days", 86400)]
)
def test_age_until_a_moment(unit: str, seconds: int) -> None:
    moment = datetime.datetime(2024, 3, 1, 12, tzinfo=datetime.timezone.utc)
    x = [0.0, moment.timestamp(), 2e9, np.nan]
    expected = (moment.timestamp() - np.array(x)) / seconds
    for at in ("2024-03-01 12:00:00", "2024-03-01T14:00+02:00", moment, moment.replace(tzinfo=None)):
        np.testing.assert_array_equal(apply({"age": {"at": at, "unit": unit}}, x), expected)
    since_midnight = apply({"age": datetime.date(2024, 3, 1)}, [moment.timestamp()])
    assert since_midnight.tolist() == [-0.5]


def test_milliseconds() -> None:
    np.testing.assert_array_equal(apply("milliseconds", [1500, np.nan]), [1.5, np.nan])


@pytest.mark.parametrize("op", [*PARTS, {"holiday": ["2024-12-25"]}])
def test_times_outside_the_calendar_are_refused(op: Any) -> None:
    refuses = OPS["time", op if isinstance(op, str) else "holiday"].refuses
    assert refuses is not None
    far = np.array([1616893200500.0, -1e300, np.inf, 253402300800.0])
    near = np.array([0.0, np.nan, -62135510400.0, 253402214400.0])
    assert refuses.of(far).all()
    assert not refuses.of(near).any()
    # Nothing breaks before the error is raised, nor at the ends of the calendar.
    assert np.isnan(apply(op, far)).all()
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        with_zone = (
            {op: zone} if isinstance(op, str) else {"holiday": {"dates": ["2024-12-25"], "time_zone": zone}}
        )
        assert np.isnan(apply(with_zone, near)).tolist() == [False, True, False, False]
