"""A user's earlier events as lists: strictly earlier in time, the newest kept, oldest first."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.preparation import columns as C
from jobs.preparation.failures import RAISED, bad_condition, named_failures
from jobs.preparation.planned import HISTORY
from jobs.preparation.sources import raw_rows
from trainer.config import RunConfig
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

# What an SQL condition is made of, as far as comparisons need it; names may stand in backticks.
_TOKEN = re.compile(
    r"""(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    |(?P<comment>--[^\n]*|/\*.*?\*/|\s+)
    |(?P<name>`(?:[^`]|``)+`|[^\W\d]\w*)
    |(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\w*)
    |(?P<sign><=>|[<>=!]=|<>|.)""",
    re.VERBOSE | re.DOTALL,
)
_COMPARES = {"=", "==", "<=>", "!=", "<>", "<", "<=", ">", ">=", "in", "between", "+", "-", "*", "/", "%"}


def user_column(frame: DataFrame, name: str) -> Column:
    """Return the user as it is, null where it is missing as an id is: null, NaN or empty text."""
    return F.when(C.token(frame, name).isNotNull(), C.column(name))


def time_problems(frame: DataFrame, name: str) -> tuple[Column, Column]:
    """Return whether a time is missing (null, NaN or empty text), and whether it is there but no time.

    Raises:
        DataError: the type of the column can be no time.
    """
    read, missing = C.time(frame, name), C.token(frame, name).isNull()
    return missing, ~missing & read.isNull()


def event_time(frame: DataFrame, name: str, where: str) -> Column:
    """Return the time of an event, null where it is missing; Spark fails on one that cannot be read."""
    read = C.time(frame, name)
    if not C.is_text(frame.schema[name].dataType):
        return read
    _, bad = time_problems(frame, name)
    message = F.concat(F.lit(f"{RAISED}{where}: column '{name}' holds no time: "), C.column(name))
    return F.when(bad, F.raise_error(message)).otherwise(read)


def event_counts(frame: DataFrame, condition: str | None, where: str) -> Column:
    """Return whether a row counts as an event of a history, after Spark has agreed to the condition.

    Text columns compare with numbers as numbers, whatever the session's settings.

    Raises:
        ConfigError: the condition is not valid SQL over the columns of the rows, or no yes-or-no question.
    """
    if condition is None:
        return F.lit(True)
    try:
        written = F.expr(condition)
        # As it was written first, so that Spark's message points into the user's own text.
        kind = frame.select(written).schema[0].dataType
        if isinstance(kind, T.BooleanType):
            _ = frame.where(written).schema  # refuses what looks at more than one row, such as `max(t)`
            counts = F.expr(_with_numbers_compared(frame, condition))
            _ = frame.where(counts).schema
            return F.coalesce(counts, F.lit(False))
    except Exception as error:
        raise bad_condition(error, where, condition) from error
    raise ConfigError(
        "the condition is neither true nor false",
        where=where,
        got=f"{condition} ({kind.simpleString()})",
        fixes=["compare it with something, for instance `rating >= 4`"],
    )


def _with_numbers_compared(frame: DataFrame, condition: str) -> str:
    """Read each text column that is compared with a number, or a column of numbers, as a double.

    Left to itself, Spark reads the text as a whole number when the other side is one: `'3.5' > 3` would be
    false, or fail, depending on `spark.sql.ansi.enabled`.
    """
    kinds = {field.name.lower(): field.dataType for field in frame.schema.fields}
    found = [m for m in _TOKEN.finditer(condition) if m.lastgroup != "comment"]
    words = [m.group() for m in found]
    sides = [_side(words, place, kinds) for place in range(len(words))]
    pieces, end = [], 0
    for place, match in enumerate(found):
        alone = (words[place - 1] if place else "") != "." and words[place + 1 : place + 2] != ["."]
        if sides[place] == "text" and alone and "number" in _compared_with(words, sides, place):
            pieces += [condition[end : match.start()], _as_double(words[place])]
            end = match.end()
    return "".join([*pieces, condition[end:]])


def _side(words: list[str], place: int, kinds: dict[str, T.DataType]) -> str | None:
    """Return `text` or `number` for a column or number of a condition, else None."""
    word = words[place]
    if re.match(r"\.?\d", word):
        return "number"
    kind = kinds.get(word.strip("`").replace("``", "`").lower())
    if kind is None or words[place + 1 : place + 2] == ["("]:  # a function may have a column's name
        return None
    if C.is_text(kind):
        return "text"
    return "number" if isinstance(kind, T.NumericType) else None


def _compared_with(words: list[str], sides: list[str | None], place: int) -> set[str | None]:
    """Return what stands on the other side of the comparisons to the right and left of a column."""
    found: set[str | None] = set()
    right = place + 2 if "".join(words[place + 1 : place + 2]).lower() == "not" else place + 1
    if right < len(words) and words[right].lower() in _COMPARES:
        right += 1
        while right < len(words) - 1 and words[right] in ("(", "-", "+"):
            right += 1
        found.add(sides[right] if right < len(sides) else None)
    # Brackets around the column itself are left alone: they may be those of a function, as in `length(name)`.
    left = place - 1
    if left > 0 and words[left] in _COMPARES:
        left -= 1
        while left > 0 and words[left] == ")":
            left -= 1
        found.add(sides[left])
    return found


def _as_double(name: str) -> str:
    # NaN is a missing number, and to Spark it is above all others.
    return f"nanvl(try_cast({name} as double), cast(null as double))"


def with_history(
    frame: DataFrame, events: DataFrame, user: Column, time: Column, max_length: int, name: str
) -> DataFrame:
    """Add the list of each row's earlier events.

    No list ever grows beyond `max_length` times the events at one moment, however long a user's life: events
    of one user and moment become one group first, and windows run over groups.

    Args:
        frame: the rows.
        events: columns `user`, `time`, `counts` (whether the event counts), `token` (null: no item), `id`.
        user: user of a row of `frame`.
        time: time of a row of `frame`, comparable to `events.time`.
        max_length: newest events kept.
        name: column to add, array<bigint>, never null.
    """
    counted = F.when(F.col("counts") & F.col("token").isNotNull(), F.struct("token", "id"))
    moments = (
        events.where(F.col("user").isNotNull() & F.col("time").isNotNull())
        .groupBy("user", "time")
        # Events of one moment have no order of their own; by token, the lists are at least the same each run.
        .agg(F.sort_array(F.collect_list(counted)).alias("items"))
        .select("user", "time", _newest(F.col("items")["id"], max_length).alias("ids"))
        .withColumn("filled", F.size("ids") > 0)
    )
    recent = Window.partitionBy("user", "filled").orderBy("time").rowsBetween(1 - max_length, 0)
    earlier = Window.partitionBy("user").orderBy("time").rowsBetween(Window.unboundedPreceding, -1)
    # Up to and including each moment with events, then, for every moment, the latest of those before it.
    upto = _newest(F.flatten(F.collect_list("ids").over(recent)), max_length)
    lists = (
        moments.withColumn("upto", F.when(F.col("filled"), upto))
        .withColumn(name, F.last("upto", ignorenulls=True).over(earlier))
        .select(F.col("user").alias("__user"), F.col("time").alias("__time"), name)
        .where(F.col(name).isNotNull())
    )
    joined = frame.join(lists, (user == F.col("__user")) & (time == F.col("__time")), "left")
    empty = F.array().cast("array<bigint>")
    return joined.drop("__user", "__time").withColumn(name, F.coalesce(F.col(name), empty))


def history_as_of_now(
    run: RunConfig, feature: str, spark: SparkSession, frame: DataFrame | None = None
) -> DataFrame:
    """Return every user's newest events, for recommendations made now.

    Args:
        run: names the source and the history.
        feature: name of a `history` feature.
        spark: the session.
        frame: events to take instead of `data.source`.

    Returns:
        Columns: the user column, and one of the feature's name with the raw items as text (array, oldest
        first), which `apply_spec` takes. Users without events that count are absent, as are missing users.

    Raises:
        ConfigError: no history feature has that name, or its condition does not fit the rows.
    """
    groups = {
        g.name: g.history for g in run.features.sequence if g.history is not None and g.name is not None
    }
    history = groups.get(feature)
    if history is None:
        raise ConfigError(
            f"no {HISTORY} feature has this name",
            where="features.sequence",
            got=feature,
            allowed=list(groups),
        )
    rows = raw_rows(run, spark, frame)
    with named_failures(f"feature {feature!r}"):
        rows = rows.where(event_counts(rows, history.where, f"{feature}: history.where"))
        events = rows.select(
            user_column(rows, history.user).alias("user"),
            event_time(rows, history.time, f"feature {feature!r}").alias("time"),
            C.token(rows, history.item).alias("token"),
        ).where(F.col("user").isNotNull() & F.col("time").isNotNull() & F.col("token").isNotNull())
        newest = Window.partitionBy("user").orderBy(F.col("time").desc(), F.col("token").desc())
        kept = events.withColumn("n", F.row_number().over(newest)).where(F.col("n") <= history.max_length)
        lists = kept.groupBy("user").agg(
            F.sort_array(F.collect_list(F.struct("time", "token"))).alias("items")
        )
    return lists.select(F.col("user").alias(history.user), F.col("items")["token"].alias(feature))


def _newest(items: Column, length: int) -> Column:
    """Return the last `length` items of a list."""
    return F.slice(items, F.greatest(F.size(items) - F.lit(length - 1), F.lit(1)), F.lit(length))
