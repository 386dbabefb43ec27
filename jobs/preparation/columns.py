"""Raw columns as numbers, tokens, times and hashes: the same on every Spark version and setting.

`try_cast` is used throughout, because a plain cast fails or gives null depending on `spark.sql.ansi.enabled`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pyspark.sql import functions as F
from pyspark.sql import types as T

from trainer.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

SPLIT = "__split"
HASH = "__hash"
ORDER = "__order"
# Set where negatives are added: whether a row is one, and the number that it shares with its positive.
NEGATIVE = "__negative"
GROUP = "__group"
# Set where `data.user_rows` makes rows of users: whether a row is one.
USER_ROW = "__user_row"
# The items that such a row is to find.
TARGETS = "__targets"
BAD_LINE = "__bad_line"
# Of the first task.
LABEL = "__label"
_LABEL_CONDITION = "__label_condition"
_LABEL_KNOWN = "__label_known"
WEIGHT = "__weight"
FILE = "__source_file"
NUMBER = "__number_"
_MATCHED = "__matched_"
# In `SPLIT`: a training row that no split holds, though histories still list its event.
DOWNSAMPLED = "downsampled"
# In `SPLIT`, before its name: rows of users that no split holds, with too few items or nothing to be found.
FEW_ITEMS = "few_items_"
NO_TARGETS = "no_targets_"
# Set where the rows of earlier days were given again: whether a row is one. In `SPLIT`: such a row.
OLD = "__old"
BEFORE = "before"

LARGEST_FLOAT = 3.4028234e38
_INTEGRAL = (T.ByteType, T.ShortType, T.IntegerType, T.LongType)
_FRACTIONAL = (T.FloatType, T.DoubleType)
_PRINTABLE = (*_INTEGRAL, T.BooleanType, T.DateType, T.TimestampNTZType, T.DecimalType)


def matched(join: int) -> str:
    """Return the column that says whether a side table, by the number of its join, has a row for a row."""
    return f"{_MATCHED}{join}"


def label(task: int) -> str:
    """Return the column of a task's label, by the number of the task."""
    return f"{LABEL}_{task}" if task else LABEL


def label_condition(task: int) -> str:
    """Return the column that says whether the condition of a task's label holds, where it has one."""
    return f"{_LABEL_CONDITION}_{task}"


def label_known(task: int) -> str:
    """Return the column that says whether a row counts for a task, where a condition decides that."""
    return f"{_LABEL_KNOWN}_{task}"


def quoted(name: str) -> str:
    """Return a column name for SQL text."""
    return "`" + name.replace("`", "``") + "`"


def column(name: str) -> Column:
    """Return a column whose name may hold dots, blanks or quotes."""
    return F.col(quoted(name))


def value_to_hash(frame: DataFrame, name: str) -> Column:
    """Return a column as `xxhash64` takes it: lists of lists, structs and maps as JSON.

    Spark hashes no maps, and passes over what is null inside of others.
    """
    kind = frame.schema[name].dataType
    inner = kind.elementType if isinstance(kind, T.ArrayType) else kind
    nested = isinstance(inner, (T.ArrayType, T.StructType, T.MapType))
    return F.to_json(column(name), {"ignoreNullFields": "false"}) if nested else column(name)


def null_places(frame: DataFrame, name: str) -> Column | None:
    """Return the places of nulls in lists as text, empty for an empty list; null for lists without nulls.

    None where a column holds no lists, or such as `value_to_hash` makes JSON of.
    """
    kind, sql = frame.schema[name].dataType, quoted(name)
    nested = (T.ArrayType, T.StructType, T.MapType)
    if not isinstance(kind, T.ArrayType) or isinstance(kind.elementType, nested):
        return None
    places = f"array_join(transform({sql}, (x, place) -> if(x is null, cast(place as string), null)), ',')"
    return F.expr(f"if(size({sql}) = 0 or exists({sql}, x -> x is null), {places}, null)")


def is_text(kind: T.DataType) -> bool:
    """Return whether a column holds text."""
    return isinstance(kind, T.StringType)


def number(frame: DataFrame, name: str, where: str = "") -> Column:
    """Return a raw column as double: null where it is missing (null, NaN, blank) or is no number.

    Raises:
        DataError: the type of the column, such as a list or a timestamp, can be no number.
    """
    if NUMBER + name in frame.columns:
        return column(NUMBER + name)
    kind, sql = frame.schema[name].dataType, quoted(name)
    if isinstance(kind, T.NullType):
        return F.lit(None).cast("double")
    if is_text(kind):
        value = F.expr(f"try_cast({sql} as double)")
    elif isinstance(kind, (*_INTEGRAL, *_FRACTIONAL, T.DecimalType, T.BooleanType)):
        value = column(name).cast("int" if isinstance(kind, T.BooleanType) else kind).cast("double")
    else:
        raise DataError(
            f"column {name!r} holds no numbers",
            where=where or f"column {name!r}",
            got=kind.simpleString(),
            allowed="numbers, booleans, or text that reads as numbers",
        )
    return F.nanvl(value, F.lit(None).cast("double"))


def with_numbers(frame: DataFrame, names: Iterable[str]) -> DataFrame:
    """Add columns that `number` finds and takes, so that text is parsed once and not in every pass."""
    text = [name for name in dict.fromkeys(names) if is_text(frame.schema[name].dataType)]
    return frame.withColumns({NUMBER + name: number(frame, name) for name in text}) if text else frame


def not_a_number(frame: DataFrame, name: str) -> Column:
    """Return the text of a value that is there but is no number, else null."""
    if not is_text(frame.schema[name].dataType):
        return F.lit(None).cast("string")
    sql = quoted(name)
    # NaN is a missing number, whatever its spelling.
    missing = f"trim({sql}) = '' or isnan(try_cast({sql} as double))"
    return F.when(number(frame, name).isNull() & ~F.expr(missing), column(name))


def is_list(frame: DataFrame, name: str) -> bool:
    """Return whether a raw column holds a list per row."""
    return isinstance(frame.schema[name].dataType, T.ArrayType)


def token(frame: DataFrame, name: str) -> Column:
    """Return a raw id column as text (a list of texts for a list column); missing and empty values are null.

    Whole floats print like integers (`7.0` as `7`), because a missing value turns a pandas column of
    integers into floats, and the ids must not change with it. So do decimals, whatever their scale.
    Timestamps print in UTC.

    Raises:
        DataError: the type of the column can be no id.
    """
    kind = frame.schema[name].dataType
    if isinstance(kind, T.ArrayType):
        return F.expr(f"transform({quoted(name)}, x -> {_token_sql('x', kind.elementType, name)})")
    return F.expr(_token_sql(quoted(name), kind, name))


def single_token(frame: DataFrame, name: str, where: str) -> Column:
    """Return `token` of a column that holds one value per row.

    Raises:
        DataError: it holds lists, or its type can be no id.
    """
    if is_list(frame, name):
        raise DataError(
            f"column {name!r} holds lists, one value per row is needed",
            where=where,
            got=frame.schema[name].dataType.simpleString(),
        )
    return token(frame, name)


def _token_sql(sql: str, kind: T.DataType, name: str) -> str:
    if is_text(kind):
        return f"nullif({sql}, '')"
    if isinstance(kind, _FRACTIONAL):
        whole = f"{sql} = rint({sql}) and abs({sql}) < 9007199254740992"
        return (
            f"case when isnan({sql}) then null when {whole} then cast(cast({sql} as bigint) as string) "
            f"else cast({sql} as string) end"
        )
    if isinstance(kind, T.DecimalType) and kind.scale > 0:
        return _decimal_sql(sql)
    if isinstance(kind, T.TimestampType):
        # A plain cast prints the session's time zone, and ids must not depend on it.
        seconds = f"cast(unix_micros({sql}) as decimal(20, 0)) / 1000000"
        return f"cast(timestamp_ntz'1970-01-01 00:00:00' + make_dt_interval(0, 0, 0, {seconds}) as string)"
    if isinstance(kind, (*_PRINTABLE, T.NullType)):
        return f"cast({sql} as string)"
    raise DataError(
        f"column {name!r} can be no id",
        where=f"column {name!r}",
        got=kind.simpleString(),
        allowed="text, numbers, booleans, dates, or lists of them",
    )


def _decimal_sql(sql: str) -> str:
    """Return a decimal with a scale as plain text without zeros at its end.

    Spark prints small ones as `1.2E-7`; other arithmetic on 38 digits would lose some of them.
    """
    text = f"cast({sql} as string)"
    digits = f"translate(substring_index({text}, 'E', 1), '-.', '')"
    zeros = f"repeat('0', -1 - try_cast(substring_index({text}, 'E', -1) as int))"
    sign = f"if({text} like '-%', '-', '')"  # a comparison would round the last digits of 38
    small = f"concat({sign}, '0.', {zeros}, {digits})"
    plain = f"if({text} like '%E-%', {small}, {text})"
    return f"regexp_replace({plain}, '[.]?0+$', '')"


def time(frame: DataFrame, name: str) -> Column:
    """Return a time column as an exact number that orders like the time; null where it cannot be read.

    Raises:
        DataError: the type of the column can be no time.
    """
    kind, sql = frame.schema[name].dataType, quoted(name)
    if isinstance(kind, T.NullType):
        return F.lit(None).cast("bigint")
    if isinstance(kind, (*_INTEGRAL, T.DecimalType)):
        return column(name)
    if isinstance(kind, _FRACTIONAL):
        return F.when(F.isnan(column(name)), None).otherwise(column(name))
    if isinstance(kind, (T.DateType, T.TimestampType, T.TimestampNTZType)):
        return F.expr(f"unix_micros(cast({sql} as timestamp))")
    if is_text(kind):
        # Numbers first: Spark would read the text `2021` as a timestamp too.
        parsed = f"cast(unix_micros(try_cast({sql} as timestamp)) / 1000000 as decimal(38, 6))"
        return F.expr(f"coalesce(try_cast({sql} as decimal(38, 6)), {parsed})")
    raise DataError(
        f"column {name!r} can be no time",
        where=f"column {name!r}",
        got=kind.simpleString(),
        allowed="numbers, timestamps, dates, or text of them",
    )


def missing(frame: DataFrame, name: str) -> Column:
    """Return whether a raw value is missing: null, NaN or empty text."""
    kind, x = frame.schema[name].dataType, column(name)
    if is_text(kind):
        return x.isNull() | (x == "")
    return x.isNull() | F.isnan(x) if isinstance(kind, _FRACTIONAL) else x.isNull()


def time_problems(frame: DataFrame, name: str) -> tuple[Column, Column]:
    """Return whether a time is missing (null, NaN or empty text), and whether it is there but no time.

    Raises:
        DataError: the type of the column can be no time.
    """
    read, missing = time(frame, name), token(frame, name).isNull()
    return missing, ~missing & read.isNull()
