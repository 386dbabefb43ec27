"""Raw columns whose rows hold several numbers each: lists, or texts of numbers with a delimiter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from trainer.errors import DataError
from trainer.features.raw_values import is_list_type, numbers, one_array, require_utf8
from trainer.features.values import Floats


def number_lists(
    column: pa.Array, name: str, dim: int, delimiter: str | None = None, where: str = ""
) -> tuple[Floats, NDArray[np.bool_] | None, NDArray[np.int64] | None]:
    """Read a raw column as lists of `dim` numbers.

    Args:
        column: lists of what `numbers` reads, or text.
        name: of the column, for errors.
        dim: D.
        delimiter: between the numbers of a text.
        where: place for errors.

    Returns:
        float64 [N, D], NaN where a number is missing or none, and in rows that are missing (null, blank) or
        of another length; bool [N, D], true where there is a text that is no number (None where there is
        none); and int64 [N], the numbers of each list, D where it is missing (None where all have D).

    Raises:
        DataError: the type of the column can be no list of numbers, or its text is no UTF-8.
    """
    lists = _lists(column, name, delimiter, where)
    there = lists.is_valid().to_numpy(zero_copy_only=False)
    lengths = pc.fill_null(pc.list_value_length(lists), dim).to_numpy(zero_copy_only=False).astype(np.int64)
    values, wrong = numbers(lists.flatten(), name, where)  # without what lies under null lists
    good = there & (lengths == dim)
    if good.all():
        return values.reshape(-1, dim), None if wrong is None else wrong.reshape(-1, dim), None
    taken = np.repeat(good[there], lengths[there])
    made = np.full((len(lists), dim), math.nan)
    made[good] = values[taken].reshape(-1, dim)
    bad = np.zeros(made.shape, dtype=np.bool_)
    if wrong is not None:
        bad[good] = wrong[taken].reshape(-1, dim)
    return made, bad if bad.any() else None, lengths if (lengths != dim).any() else None


def _lists(column: pa.Array, name: str, delimiter: str | None, where: str) -> pa.Array:
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), pa.list_(pa.float64()))
    column = one_array(column)
    if is_list_type(column.type) and not is_list_type(column.type.value_type):
        return column
    text = pa.types.is_string(column.type)
    if not text or delimiter is None:
        raise DataError(
            f"column {name!r} holds no lists of numbers",
            where=where or f"column {name!r}",
            got=str(column.type),
            allowed="lists of numbers, or text with a `delimiter`",
            fixes=["name what stands between the numbers: `delimiter: ','`"] if text else [],
        )
    require_utf8(column, name)
    blank = pc.equal(pc.utf8_trim_whitespace(column), "")
    return pc.split_pattern(pc.if_else(blank, pa.scalar(None, pa.string()), column), delimiter)


def as_lists(values_ND: NDArray[np.floating[Any]]) -> pa.Array:
    """Return rows of numbers as a prepared column, list<float32> [N]."""
    rows, dim = values_ND.shape
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused later
        flat = pa.array(values_ND.astype(np.float32, copy=False).reshape(-1))
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * np.int32(dim)), flat)
