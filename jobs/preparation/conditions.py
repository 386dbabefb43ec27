"""Spark SQL conditions on one raw row, as configs write them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.preparation import columns as C
from jobs.preparation.failures import bad_condition
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

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


def event_counts(frame: DataFrame, condition: str | None, where: str) -> Column:
    """Return whether a condition holds for a row (an event of a history), after Spark has agreed to it.

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


def condition_columns(names: Sequence[str], condition: str) -> list[str]:
    """Return which of some columns a condition names, in their order."""
    words = [m.group() for m in _TOKEN.finditer(condition) if m.lastgroup != "comment"]
    named = {
        _plain(word)
        for word, after in zip(words, [*words[1:], ""], strict=True)
        if after != "("  # a function may have a column's name
    }
    return [name for name in names if name.lower() in named]


def _plain(word: str) -> str:
    return word.strip("`").replace("``", "`").lower()


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
    kind = kinds.get(_plain(word))
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
