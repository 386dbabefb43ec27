"""Raw columns as numbers, tokens and times: the same for every file format, in Spark and for single rows."""

from __future__ import annotations

import datetime
import math
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainer.errors import DataError
from trainer.features.values import Codes, Floats, Tokens

_EXACT = 2.0**53  # whole floats up to here are exact, and print like integers
_DAY = 86400.0
_MICROS = {"s": 1_000_000, "ms": 1000, "us": 1}
# Python's own reader of ISO times takes more from version to version.
_ISO_TIME = re.compile(
    r"(\d{4})-(\d{1,2})-(\d{1,2})(?:[T ](\d{1,2})(?::(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?)?"
    r"(?: ?(?:Z|UTC|([+-]\d{2})(?::?(\d{2}))?))?)?",
    re.ASCII,
)


def one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return a column as one array of a plain type (no dictionary, no large or fixed-size type)."""
    if isinstance(column, pa.ChunkedArray):
        # One chunk is taken as it is: combining would copy it.
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # more than one array can hold
            column = pa.concat_arrays(column.chunks)
    kind = column.type
    if pa.types.is_dictionary(kind):
        return one_array(column.dictionary_decode())
    if pa.types.is_large_string(kind) or pa.types.is_null(kind) or str(kind) == "string_view":
        return column.cast(pa.string())
    if is_list_type(kind) and not pa.types.is_list(kind):
        return column.cast(pa.list_(kind.value_type))
    return column


def is_list_type(kind: pa.DataType) -> bool:
    """Return whether a raw column of this type holds a list per row."""
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_one(kind) for is_one in lists)


def is_whole(kind: pa.DataType) -> bool:
    """Return whether a raw column of this type holds whole numbers of up to 64 bits with their sign."""
    return bool(pa.types.is_integer(kind) and kind != pa.uint64())


def with_nulls_uncovered(column: pa.Array) -> pa.Array:
    """Return a column of numbers without its nulls, for which any number stands: no copy is made."""
    if not column.null_count:
        return column
    return pa.Array.from_buffers(column.type, len(column), [None, column.buffers()[1]], offset=column.offset)


def numbers(column: pa.Array, name: str, where: str = "") -> tuple[Floats, NDArray[np.bool_] | None]:
    """Read a raw column as numbers.

    Args:
        column: integers, fractions, decimals, booleans, or text that reads as numbers.
        name: of the column, for errors.
        where: place for errors.

    Returns:
        float64 [N], NaN where the value is missing (null, NaN, blank) or no number; and, for text, bool [N],
        true where there is a text that is no number (None where there is none).

    Raises:
        DataError: the type of the column can be no number, or its text is no UTF-8.
    """
    column = one_array(column)
    kind = column.type
    if pa.types.is_string(kind):
        found = _texts(column, name)
        return _spread(*_text_numbers(found.values), found.codes)
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise DataError(
            f"column {name!r} holds no numbers",
            where=where or f"column {name!r}",
            got=str(kind),
            allowed="numbers, booleans, or text that reads as numbers",
            fixes=["dim: 16 (numbers of each list)"] if is_list_type(kind) else [],
        )
    # Large whole numbers lose their last digits, as in every float64.
    values = pc.cast(column, pa.float64(), safe=False)
    return pc.fill_null(values, math.nan).to_numpy(zero_copy_only=False), None


def _text_numbers(texts: pa.Array) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the number of each text, NaN where it has none, and where there is a text that is no number."""
    plain = _without_empty(texts)
    try:
        values = pc.fill_null(pc.cast(plain, pa.float64()), math.nan).to_numpy(zero_copy_only=False)
        if np.isnan(values).sum() == plain.null_count:  # Arrow takes `nan(what)`, too
            return values, np.zeros(len(values), dtype=np.bool_)
    except pa.ArrowInvalid:
        pass  # some text with blanks around it, or that is no number
    return _read([_number(text) for text in texts.to_pylist()])


def _without_empty(texts: pa.Array) -> pa.Array:
    """Return null for an empty text."""
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _number(text: str) -> float | None:
    """Return NaN for a blank, None for a text that is no number."""
    plain = text.strip()
    if not plain:
        return math.nan
    if "_" in plain or not plain.isascii():  # Python's float takes more than other readers do
        return None
    try:
        return float(plain)
    except ValueError:
        return None


def _read(values: list[float | None]) -> tuple[Floats, NDArray[np.bool_]]:
    wrong = np.array([value is None for value in values], dtype=np.bool_)
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64), wrong


def _spread(
    values: Floats, wrong: NDArray[np.bool_], codes: Codes
) -> tuple[Floats, NDArray[np.bool_] | None]:
    """Return values and faults of the distinct texts for every row."""
    bad = np.append(wrong, False)[codes] if wrong.any() else None
    return np.append(values, math.nan)[codes], bad


def tokens(column: pa.Array, name: str) -> Tokens:
    """Read a raw column as ids: text, missing where it is null, NaN or empty.

    Whole floats print like integers (`7.0` as `7`), because a missing value turns a pandas column of
    integers into floats, and the ids must not change with it. So do decimals (`7.0000` as `7`, `0E-10` as
    `0`), whatever their scale. Timestamps print in UTC.

    Args:
        column: text, numbers, booleans, dates, timestamps, or lists of them.
        name: of the column, for errors.

    Raises:
        DataError: the type of the column can be no id, or its text is no UTF-8.
    """
    column = one_array(column)
    kind = column.type
    if is_list_type(kind) and not is_list_type(kind.value_type):
        inner = tokens(column.flatten(), name)  # without what lies under null lists
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        return Tokens(inner.values, inner.codes, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))
    if pa.types.is_string(kind):
        return _texts(column, name)
    if is_whole(kind):
        return Tokens.of(column)
    if not _prints(kind):
        raise DataError(
            f"column {name!r} can be no id",
            where=f"column {name!r}",
            got=str(kind),
            allowed="text, numbers, booleans, dates, or lists of them",
        )
    found = column.dictionary_encode()  # so that each distinct value is printed once
    return Tokens.of(pa.array(_printed(found.dictionary), pa.string()).take(found.indices))


def _texts(column: pa.Array, name: str) -> Tokens:
    """Read a column of text as tokens, and check that it is UTF-8."""
    found = Tokens.of(column)
    require_utf8(found.values, name)
    return found


def require_utf8(values: pa.Array, name: str) -> None:
    """Check that texts are UTF-8, and values of other types what their type says.

    Args:
        values: of a column, or its distinct ones.
        name: of the column, for errors.

    Raises:
        DataError: they are not.
    """
    try:
        values.validate(full=True)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"column {name!r} holds text that is not UTF-8",
            where=f"column {name!r}",
            got=str(error),
            fixes=["name the encoding of the files in `data.source.encoding`", "write the file as UTF-8"],
        ) from error


def _prints(kind: pa.DataType) -> bool:
    kinds = (
        pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean,
        pa.types.is_timestamp, pa.types.is_date,
    )  # fmt: skip
    return any(is_one(kind) for is_one in kinds)


def _printed(values: pa.Array) -> list[str | None]:
    """Return the text of each value; none of them is null."""
    kind = values.type
    if pa.types.is_floating(kind):
        return [_float_text(value) for value in values.to_numpy(zero_copy_only=False)]
    if pa.types.is_boolean(kind):
        return ["true" if value else "false" for value in values.to_pylist()]
    if pa.types.is_decimal(kind):
        return [_decimal_text(format(value, "f")) for value in values.to_pylist()]
    if pa.types.is_timestamp(kind):
        moments = _micros(values).astype("datetime64[us]")
        return [_moment_text(text) for text in np.datetime_as_string(moments).tolist()]
    if pa.types.is_date(kind):
        return list(np.datetime_as_string(_days(values).astype("datetime64[D]")).tolist())
    return [str(value) for value in values.to_pylist()]


def _float_text(value: Any) -> str | None:
    """Return the shortest text that reads back as the value, in its own precision."""
    number = float(value)
    if math.isnan(number):
        return None
    if abs(number) < _EXACT and number.is_integer():
        return str(int(number))
    return str(value)


def _decimal_text(plain: str) -> str:
    """Return `7.5` for `7.5000`, `7` for `7.0000`."""
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def _moment_text(iso: str) -> str:
    """Return `2021-03-28 01:00:00.5` for `2021-03-28T01:00:00.500000`."""
    return iso.replace("T", " ").rstrip("0").rstrip(".")


def _micros(column: pa.Array) -> NDArray[np.int64]:
    """Return microseconds since 1970 of timestamps without nulls."""
    ticks: NDArray[np.int64] = column.cast(pa.int64()).to_numpy(zero_copy_only=False)
    unit = column.type.unit
    return ticks // 1000 if unit == "ns" else ticks * _MICROS[unit]


def _days(column: pa.Array) -> NDArray[np.int64]:
    """Return days since 1970 of dates without nulls."""
    days: NDArray[Any] = column.cast(pa.date32()).cast(pa.int32()).to_numpy(zero_copy_only=False)
    return days.astype(np.int64)


def times(column: pa.Array, name: str, where: str = "") -> tuple[Floats, NDArray[np.bool_] | None]:
    """Read a raw column as times.

    Args:
        column: timestamps, dates, numbers (seconds since 1970), or text of them (ISO 8601, UTC where it
            names no zone).
        name: of the column, for errors.
        where: place for errors.

    Returns:
        float64 [N] seconds since 1970 in UTC, NaN where the time is missing or cannot be read; and, for text,
        bool [N], true where there is a text that is no time (None where there is none).

    Raises:
        DataError: the type of the column can be no time, or its text is no UTF-8.
    """
    column = one_array(column)
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        there = column.is_valid().to_numpy(zero_copy_only=False)
        made = np.full(len(column), math.nan)
        known = column.drop_null()
        made[there] = _days(known) * _DAY if pa.types.is_date(kind) else _micros(known) / 1e6
        return made, None
    if pa.types.is_string(kind):
        found = _texts(column, name)
        return _spread(*_text_times(found.values), found.codes)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return numbers(column, name, where)
    raise DataError(
        f"column {name!r} can be no time",
        where=where or f"column {name!r}",
        got=str(kind),
        allowed="numbers, timestamps, dates, or text of them",
    )


def _text_times(texts: pa.Array) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the time of each text, NaN where it has none, and where there is a text that is no time."""
    try:
        moments = pc.cast(_without_empty(texts), pa.timestamp("us"))
    except pa.ArrowInvalid:  # some text with a time zone, that is a number, or no time
        return _read([_time(text) for text in texts.to_pylist()])
    return times(moments, "")[0], np.zeros(len(texts), dtype=np.bool_)


def _time(text: str) -> float | None:
    number = _number(text)  # numbers first: `2021` is a number of seconds, not a year
    return iso_seconds(text.strip()) if number is None else number


def iso_seconds(text: str) -> float | None:
    """Return the seconds since 1970 of an ISO 8601 date or time, in UTC where it names no zone; else None."""
    found = _ISO_TIME.fullmatch(text)
    if found is None:
        return None
    *parts, fraction, zone_hours, zone_minutes = found.groups(default="0")
    year, month, day, hour, minute, second = map(int, parts)
    ahead = datetime.timedelta(hours=int(zone_hours), minutes=int(zone_hours[0] + zone_minutes))
    try:
        moment = datetime.datetime(year, month, day, hour, minute, second)
    except ValueError:
        return None
    micros = int(fraction[:6].ljust(6, "0"))
    since = moment - datetime.datetime(1970, 1, 1) - ahead
    return (since + datetime.timedelta(microseconds=micros)).total_seconds()
