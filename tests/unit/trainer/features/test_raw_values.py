"""Every Arrow type of a raw column as numbers, ids and times, whole, sliced, in chunks and encoded."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.trainer.features.plain import plain
from trainer.errors import DataError
from trainer.features.raw_values import iso_seconds, numbers, one_array, times, tokens

UTC = datetime.timezone.utc
MOMENT = datetime.datetime(2021, 3, 28, 1, 0, 0, 500000)
OLD = datetime.datetime(1969, 12, 31, 23, 59, 59, 1)
NAN = math.nan
MAX_UNSIGNED = 2**64 - 1
BAD_TEXT = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 3], np.int32).tobytes()), pa.py_buffer(b"a\xff\xfe")]
)


def arrow(values: list[Any], kind: Any) -> pa.Array:
    return pa.array(values, kind)


def sliced(column: pa.Array) -> pa.Array:
    """Return the same column as the middle of a longer one."""
    return pa.concat_arrays([column, column, column]).slice(len(column), len(column))


def chunked(column: pa.Array) -> pa.Array:
    return pa.chunked_array([column.slice(0, 1), column.slice(1, 0), column.slice(1)], column.type)


SHAPES: list[Callable[[pa.Array], pa.Array]] = [lambda column: column, sliced, chunked]

# column, as numbers (None: refused), as ids, as times
CASES = [
    (arrow([1, None, -2], pa.int8()), [1, NAN, -2], ["1", None, "-2"], [1, NAN, -2]),
    (arrow([1, None, -(2**15)], pa.int16()), [1, NAN, -(2**15)], ["1", None, "-32768"], [1, NAN, -(2**15)]),
    (
        arrow([0, None, 2**31 - 1], pa.int32()),
        [0, NAN, 2**31 - 1],
        ["0", None, "2147483647"],
        [0, NAN, 2**31 - 1],
    ),
    (
        arrow([2**53 + 1, None, -(2**63)], pa.int64()),
        [2.0**53, NAN, -(2.0**63)],
        ["9007199254740993", None, "-9223372036854775808"],
        [2.0**53, NAN, -(2.0**63)],
    ),
    (
        arrow([MAX_UNSIGNED, None, 7], pa.uint64()),
        [2.0**64, NAN, 7],
        ["18446744073709551615", None, "7"],
        [2.0**64, NAN, 7],
    ),
    (arrow([255, None, 0], pa.uint8()), [255, NAN, 0], ["255", None, "0"], [255, NAN, 0]),
    (
        arrow([7.0, NAN, None, 0.1, -0.0, 1e10], pa.float32()),
        [7, NAN, NAN, float(np.float32(0.1)), 0, 1e10],
        ["7", None, None, "0.1", "0", "10000000000"],
        [7, NAN, NAN, float(np.float32(0.1)), 0, 1e10],
    ),
    (
        arrow([7.0, NAN, None, 1e300, -0.0, 2.0**53, -2.5, math.inf], pa.float64()),
        [7, NAN, NAN, 1e300, 0, 2.0**53, -2.5, math.inf],
        ["7", None, None, "1e+300", "0", "9007199254740992.0", "-2.5", "inf"],
        [7, NAN, NAN, 1e300, 0, 2.0**53, -2.5, math.inf],
    ),
    (
        arrow([Decimal("7.00"), None, Decimal("-0.25")], pa.decimal128(10, 2)),
        [7, NAN, -0.25],
        ["7", None, "-0.25"],
        [7, NAN, -0.25],
    ),
    (
        arrow([Decimal("0E-10"), None, Decimal("-70.5000000000")], pa.decimal128(20, 10)),
        [0, NAN, -70.5],
        ["0", None, "-70.5"],
        [0, NAN, -70.5],
    ),
    (
        arrow([Decimal(10**37), None, Decimal(0)], pa.decimal128(38, 0)),
        [1e37, NAN, 0],
        [str(10**37), None, "0"],
        [1e37, NAN, 0],
    ),
    (arrow([True, None, False], pa.bool_()), [1, NAN, 0], ["true", None, "false"], None),
    (
        arrow([datetime.date(2021, 3, 28), None, datetime.date(1, 1, 1)], pa.date32()),
        None,
        ["2021-03-28", None, "0001-01-01"],
        [1616889600, NAN, -62135596800],
    ),
    (
        arrow([datetime.date(1969, 12, 31), None, datetime.date(9999, 12, 31)], pa.date64()),
        None,
        ["1969-12-31", None, "9999-12-31"],
        [-86400, NAN, 253402214400],
    ),
    (
        arrow([MOMENT, None, OLD], pa.timestamp("us")),
        None,
        ["2021-03-28 01:00:00.5", None, "1969-12-31 23:59:59.000001"],
        [1616893200.5, NAN, -0.999999],
    ),
    (
        arrow([MOMENT.replace(tzinfo=UTC), None], pa.timestamp("us", "Europe/Berlin")),
        None,
        ["2021-03-28 01:00:00.5", None],
        [1616893200.5, NAN],
    ),
    (
        arrow([datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31, 23, 59, 59)], pa.timestamp("us")),
        None,
        ["0001-01-01 00:00:00", "9999-12-31 23:59:59"],
        [-62135596800, 253402300799],
    ),
    (
        arrow([1616893200500000001, None, -1], pa.timestamp("ns")),
        None,
        ["2021-03-28 01:00:00.5", None, "1969-12-31 23:59:59.999999"],
        [1616893200.5, NAN, -1e-6],
    ),
    (arrow([1616893200, None], pa.timestamp("s")), None, ["2021-03-28 01:00:00", None], [1616893200, NAN]),
    (arrow([1616893200500], pa.timestamp("ms")), None, ["2021-03-28 01:00:00.5"], [1616893200.5]),
    (
        arrow(["7", " 2.5 ", "", "  ", None, "NaN", "+1e3", "-0"], pa.string()),
        [7, 2.5, NAN, NAN, NAN, NAN, 1000, 0],
        ["7", " 2.5 ", None, "  ", None, "NaN", "+1e3", "-0"],
        [7, 2.5, NAN, NAN, NAN, NAN, 1000, 0],
    ),
    (arrow(["1", None, "2.25"], pa.large_string()), [1, NAN, 2.25], ["1", None, "2.25"], [1, NAN, 2.25]),
    (arrow([None, None], pa.null()), [NAN, NAN], [None, None], [NAN, NAN]),
    (arrow([None, None], pa.string()), [NAN, NAN], [None, None], [NAN, NAN]),
    (arrow([None, None], pa.float32()), [NAN, NAN], [None, None], [NAN, NAN]),
    (arrow([], pa.string()), [], [], []),
    (arrow([], pa.float64()), [], [], []),
    (arrow([], pa.timestamp("us")), None, [], []),
    (arrow([1, None, 1], pa.int64()).dictionary_encode(), [1, NAN, 1], ["1", None, "1"], [1, NAN, 1]),
    (
        arrow(["2", "1", None, "2"], pa.large_string()).dictionary_encode(),
        [2, 1, NAN, 2],
        ["2", "1", None, "2"],
        [2, 1, NAN, 2],
    ),
    (
        arrow([[1, 2], [], None, [3, None]], pa.list_(pa.int64())),
        None,
        [["1", "2"], [], [], ["3", None]],
        None,
    ),
    (arrow([[7.0, 0.5]], pa.large_list(pa.float32())), None, [["7", "0.5"]], None),
    (
        arrow([["a", ""], None, ["b", "a"]], pa.list_(pa.string(), 2)),
        None,
        [["a", None], [], ["b", "a"]],
        None,
    ),
    (arrow([[None], []], pa.list_(pa.null())), None, [[None], []], None),
    (arrow([[MOMENT, None]], pa.list_(pa.timestamp("us"))), None, [["2021-03-28 01:00:00.5", None]], None),
]
REFUSED = [
    arrow([b"a"], pa.binary()),
    arrow([{"a": 1}], pa.struct([("a", pa.int64())])),
    arrow([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
    arrow([[[1]]], pa.list_(pa.list_(pa.int64()))),
    arrow([[b"a"]], pa.list_(pa.binary())),
    arrow([1], pa.duration("us")),
    arrow([1], pa.time64("us")),
]


def case_id(value: Any) -> str:
    return str(value.type) if isinstance(value, pa.Array) else ""


@pytest.mark.parametrize("shape", SHAPES, ids=["whole", "sliced", "chunked"])
@pytest.mark.parametrize(("column", "as_numbers", "as_ids", "as_times"), CASES, ids=case_id)
def test_a_column_reads_the_same_in_every_shape(
    column: pa.Array,
    as_numbers: list[float] | None,
    as_ids: list[Any],
    as_times: list[float] | None,
    shape: Any,
) -> None:
    column = shape(column)
    assert plain(tokens(column, "c")) == as_ids
    for read, expected in ((numbers, as_numbers), (times, as_times)):
        if expected is None:
            with pytest.raises(DataError, match="column 'c'"):
                read(column, "c")
            continue
        values, wrong = read(column, "c")
        assert values.dtype == np.float64
        assert wrong is None
        np.testing.assert_array_equal(values, np.array(expected, dtype=np.float64))


@pytest.mark.parametrize("column", REFUSED, ids=case_id)
@pytest.mark.parametrize("read", [numbers, tokens, times])
def test_other_types_are_refused_by_name(column: pa.Array, read: Any) -> None:
    with pytest.raises(DataError) as error:
        read(column, "c")
    assert "column 'c'" in str(error.value)
    assert str(error.value.got) in str(column.type)


@pytest.mark.parametrize("read", [numbers, tokens, times])
@pytest.mark.parametrize("column", [BAD_TEXT, BAD_TEXT.slice(1)], ids=["whole", "sliced"])
def test_text_that_is_not_utf_8_is_refused(column: pa.Array, read: Any) -> None:
    with pytest.raises(DataError, match="'c' holds text that is not UTF-8"):
        read(column, "c")


def test_lists_under_nulls_do_not_count() -> None:
    offsets, values = pa.array([0, 2, 4], pa.int32()), pa.array(["a", "b", "c", "d"])
    column = pa.ListArray.from_arrays(offsets, values, mask=pa.array([True, False]))
    assert plain(tokens(column, "c")) == [[], ["c", "d"]]


@pytest.mark.parametrize(
    "text",
    ["x", "1_000", "\u0661", "1.2.3", "0x10", "1d", "7\x00", "1,5", "nan(x)", "--1", "- 1", "\u0967\u0968"],
)
@pytest.mark.parametrize("others", [[], ["", " 3"]], ids=["alone", "beside blanks"])
def test_text_that_is_no_number_is_told_apart_from_a_missing_one(text: str, others: list[str]) -> None:
    values, wrong = numbers(pa.array([text, None, "1", *others]), "c")
    np.testing.assert_array_equal(values[:3], [NAN, NAN, 1])
    assert wrong is not None
    assert wrong.tolist() == [True, *[False] * (2 + len(others))]


@given(st.lists(st.one_of(st.none(), st.floats(), st.integers(-(10**30), 10**30))))
def test_numbers_written_as_text_read_back(values: list[float | int | None]) -> None:
    read, wrong = numbers(pa.array([None if v is None else str(v) for v in values], pa.string()), "c")
    assert wrong is None
    np.testing.assert_array_equal(read, np.array([NAN if v is None else float(v) for v in values]))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_printed_floats_read_back_and_whole_ones_print_like_integers(values: list[float]) -> None:
    for text, value in zip(plain(tokens(pa.array(values, pa.float64()), "c")), values, strict=True):
        assert float(text) == value
        assert (text == str(int(value))) or not (value.is_integer() and abs(value) < 2**53)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_printed_float32_read_back_in_their_own_precision(values: list[float]) -> None:
    for text, value in zip(plain(tokens(pa.array(values, pa.float32()), "c")), values, strict=True):
        assert np.float32(text) == np.float32(value)
        assert len(text) <= len(repr(value)) or value.is_integer()


@given(st.integers(-(10**9), 2 * 10**9), st.integers(0, 999999), st.sampled_from([0, 60, -330, 765]))
def test_iso_times_read_as_the_calendar_says(second: int, micros: int, zone: int) -> None:
    moment = datetime.datetime.fromtimestamp(second, UTC) + datetime.timedelta(microseconds=micros)
    there = moment.astimezone(datetime.timezone(datetime.timedelta(minutes=zone)))
    expected = pd.Timestamp(there).value / 1e9
    assert iso_seconds(there.isoformat()) == pytest.approx(expected, abs=5e-7)
    assert iso_seconds(there.isoformat(sep=" ")) == iso_seconds(there.isoformat())


@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("2021-03-28", "2021-03-28T00:00:00+00:00"),
        ("2021-3-8", "2021-03-08T00:00:00+00:00"),
        ("2021-03-28 01", "2021-03-28T01:00:00+00:00"),
        ("2021-03-28 01:02", "2021-03-28T01:02:00+00:00"),
        ("2021-03-28T01:02:03.5", "2021-03-28T01:02:03.500000+00:00"),
        ("2021-03-28T01:02:03.123456789Z", "2021-03-28T01:02:03.123456+00:00"),
        ("2021-03-28 01:02:03 UTC", "2021-03-28T01:02:03+00:00"),
        ("2021-03-28T01:02:03+0530", "2021-03-28T01:02:03+05:30"),
        ("2021-03-28T01:02:03-01", "2021-03-28T01:02:03-01:00"),
        ("2021-03-28T01:02:03-01:30", "2021-03-28T02:32:03+00:00"),
        ("0001-01-01", "0001-01-01T00:00:00+00:00"),
    ],
)
def test_forms_of_a_time(text: str, same_as: str) -> None:
    expected = datetime.datetime.fromisoformat(same_as).timestamp()
    assert iso_seconds(text) == expected
    for column in ([f" {text} "], [text]):
        values, wrong = times(pa.array([*column, None, ""]), "c")
        np.testing.assert_array_equal(values, [expected, NAN, NAN])
        assert wrong is None


@pytest.mark.parametrize(
    "text",
    ["yesterday", "2021-02-30", "2021-13-01", "28.3.2021", "2021-03-28T25:00", "2021-03-28T", "21-3-8"],
)
def test_text_that_is_no_time_is_told_apart_from_a_missing_one(text: str) -> None:
    values, wrong = times(pa.array([text, None, "", "2021"]), "c")
    np.testing.assert_array_equal(values, [NAN, NAN, NAN, 2021])
    assert wrong is not None
    assert wrong.tolist() == [True, False, False, False]


def test_one_chunk_is_not_copied() -> None:
    column = pa.array([1.0, 2.0])
    same = one_array(pa.chunked_array([column]))
    assert same.buffers()[1].address == column.buffers()[1].address
    assert one_array(pa.chunked_array([], pa.string())).to_pylist() == []
