"""Forms of times: what they may say, and which numbers look like one."""

from __future__ import annotations

import datetime

import pytest

from tests.unit.trainer.config.test_rows import run_of
from trainer.config.time_formats import TimeFormat, likely_format
from trainer.errors import ConfigError

MOMENTS = [
    datetime.datetime(2014, 10, 21),
    datetime.datetime(1969, 1, 2, 3, 4, 5),
    datetime.datetime(2068, 12, 31, 23, 59, 59),
]


@pytest.mark.parametrize(
    "text",
    [
        "%Y%m%d",
        "%y%m%d%H",
        "%Y%m%d%H%M%S",
        "%d/%m/%Y %H:%M",
        "%m.%d.%y",
        "%H:%M:%S on %d-%m-%Y",
        "%Y/%m/%dT%H",
    ],
)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_form_reads_what_strftime_writes(text: str, moment: datetime.datetime) -> None:
    form, written = TimeFormat(text), moment.strftime(text)
    assert form.width == len(written)
    found = form.iso(written)
    assert found is not None
    assert datetime.datetime.fromisoformat(found) == datetime.datetime.strptime(written, text)
    assert form.iso(found) is None  # rewritten once
    for other in (written + "0", written[1:], f" {written}", written.replace("0", "x")):
        assert form.iso(other) is None or "x" not in other


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "names no time"),
        ("%Y%m", "needs a year, a month and a day"),
        ("%Y%y%m%d", "names no time"),
        ("%Y%m%d%M", "names no time"),
        ("%Y%m%d%d", "names no time"),
        ("%Y%m%d%b", "may hold"),
        ("%Y%m%d%Z", "may hold"),
        ("20%y%m%d", "no other digits"),
        ("%Y-%d-%m %H:%M:%S", "cannot be told from ISO 8601"),
    ],
)
def test_what_is_no_form_is_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as error:
        run_of(time_formats={"t": text})
    assert error.value.where.startswith("config: data.time_formats")


@pytest.mark.parametrize("until", [["14102900", "14103000"], [14102900, 14103000]])
def test_a_split_by_a_column_with_a_form_is_cut_at_dates(until: list[str | int]) -> None:
    split = {"method": "time", "column": "hour", "until": until}
    with pytest.raises(ConfigError, match="not 14102900"):
        run_of(time_formats={"hour": "%y%m%d%H"}, split=split)
    run_of(time_formats={"hour": "%y%m%d%H"}, split={**split, "until": ["2014-10-29", "2014-10-30"]})


def test_a_form_is_part_of_the_preparation_where_there_is_one() -> None:
    assert run_of(time_formats={"t": "%Y%m%d"}).preparation_hash() != run_of().preparation_hash()
    assert "time_formats" not in run_of().preparation()["data"]


@pytest.mark.parametrize(
    ("numbers", "form"),
    [
        ([14102100, 14103023], "%y%m%d%H"),
        ([8010100, 9123123], "%y%m%d%H"),  # a zero at the beginning is lost
        ([20240131, 20241231], "%Y%m%d"),
        ([19991231, 20000101], "%Y%m%d"),
        ([240131, 241231], "%y%m%d"),
        ([2014102100, 2014103023], "%Y%m%d%H"),
        ([20240131235959], "%Y%m%d%H%M%S"),
        ([14102100, 14103024], None),  # there is no hour 24
        ([20240131, 20241331], None),
        ([0, 14102100], None),
        ([-20240131], None),
        ([20240131.5], None),
        ([881250949, 893286638], None),  # seconds
        ([], None),
    ],
)
def test_numbers_that_look_like_dates_are_known(numbers: list[float], form: str | None) -> None:
    assert likely_format(numbers) == form
