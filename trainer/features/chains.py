"""One feature of the spec applied to raw columns, op by op."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trainer.errors import DataError
from trainer.features import raw_values
from trainer.features.crosses import crossed
from trainer.features.number_lists import number_lists
from trainer.features.ops import CROSS, Kind, entries, first_value
from trainer.features.registry import FeatureOp
from trainer.features.values import Codes, Floats, Tokens
from trainer.schema import FittedOp, numbers_per_row

RawColumns = Mapping[str, pa.Array]


class Chain(Protocol):
    """What the ops of a feature need to know of it, before and after fitting."""

    @property
    def name(self) -> str:
        """Return the feature's name."""

    @property
    def kind(self) -> Kind:
        """Return dense, sparse, sequence or vector."""

    @property
    def column(self) -> str:
        """Return the raw column."""

    @property
    def ops(self) -> Sequence[FittedOp]:
        """Return the ops from left to right."""

    @property
    def is_list(self) -> bool:
        """Return whether a row holds any number of ids."""


@dataclass(frozen=True)
class Read:
    """A raw column as the first op takes it.

    Attributes:
        value: numbers, times or tokens; float64 [N, D] for lists of D numbers.
        wrong: bool like the numbers, true where a text is no number or no time; None where there is none.
        lengths: int64 [N], numbers of each list where some are not D; None where all are, or are missing.
    """

    value: Floats | Tokens
    wrong: NDArray[np.bool_] | None = None
    lengths: NDArray[np.int64] | None = None


def raw_columns(feature: Chain) -> tuple[str, ...]:
    """Return the raw columns that a feature is made of."""
    if feature.ops and feature.ops[0].name == CROSS:
        return tuple(feature.ops[0].params["columns"])
    return (feature.column,)


def read(feature: Chain, columns: RawColumns) -> Read:
    """Read the raw columns of a feature.

    Raises:
        DataError: the type of a column does not fit.
    """
    names = raw_columns(feature)
    takes = first_value(feature.ops, feature.kind)
    if takes == "token":
        tokens = [raw_values.tokens(columns[name], name) for name in names]
        return Read(tokens[0] if len(tokens) == 1 else crossed(tokens))
    where = f"{feature.kind} feature {feature.name!r}"
    dim = numbers_per_row(feature.ops)
    if dim is not None:
        return Read(
            *number_lists(columns[names[0]], names[0], dim, feature.ops[0].params["delimiter"], where)
        )
    reader = raw_values.times if takes == "time" else raw_values.numbers
    return Read(*reader(columns[names[0]], names[0], where))


def numbers(value: Floats, steps: Sequence[tuple[FittedOp, FeatureOp]]) -> Floats:
    """Apply the ops of a dense feature."""
    for op, entry in steps:
        value = entry.function(value, **op.params)
    return value


def reads_time(feature: Chain) -> bool:
    """Return whether the raw column is read as a time."""
    return first_value(feature.ops, feature.kind) == "time"


def tokens(feature: Chain, columns: RawColumns, before: Read | None = None) -> Tokens:
    """Apply the ops of a feature of ids before the one that makes them.

    Args:
        feature: sparse, sequence or vector.
        columns: raw columns.
        before: what `read` gave, where it is known.

    Returns:
        The tokens; lists without missing ones.

    Raises:
        DataError: a column's type does not fit, or the feature was fitted on lists and this is none (or the
            other way round).
    """
    value = (before or read(feature, columns)).value
    for op, entry in entries(feature.ops, feature.kind):
        if entry.gives == "ids":
            break
        if entry.takes == "token":
            value = as_tokens(value)
        value = entry.function(value, **op.params)
    made = as_tokens(value).compacted()
    if feature.is_list and not made.is_list and made.missing.all():  # a column of nulls has no list type
        made = Tokens(made.values, made.codes[:0], np.zeros(len(made.codes) + 1, dtype=np.int64))
    if made.is_list != feature.is_list:
        raise DataError(
            f"feature {feature.name!r} was fitted on {'lists' if feature.is_list else 'single values'}",
            where=f"column {raw_columns(feature)[0]!r}",
            got="lists" if made.is_list else "single values",
        )
    return made


def as_tokens(value: Floats | Tokens) -> Tokens:
    """Return numbers as tokens: whole ones print like integers, missing ones are missing."""
    if isinstance(value, Tokens):
        return value
    return raw_values.tokens(pa.array(value, pa.float64(), from_pandas=True), "")


def id_op(feature: Chain) -> FittedOp | None:
    """Return the op that makes ids, or None where the tokens are ids already (or for a dense feature)."""
    last = list(entries(feature.ops, feature.kind))[-1:] if feature.kind != "dense" else []
    return last[0][0] if last and last[0][1].gives == "ids" else None


def raw_ids(made: Tokens) -> tuple[Codes, NDArray[np.bool_]]:
    """Return the number of each of `values`, and which of them are ids: whole numbers of up to 18 digits.

    The number of a value that is none is 0.
    """
    if pa.types.is_integer(made.values.type):
        numbers = made.values.to_numpy(zero_copy_only=False)
        good = (numbers >= 0) & (numbers < 10**18)
        return np.where(good, numbers, 0), good
    texts = made.values.to_pylist()
    good = np.array([text.isascii() and text.isdigit() and len(text) <= 18 for text in texts], dtype=bool)
    numbers = np.array([int(text) if fine else 0 for text, fine in zip(texts, good, strict=True)], np.int64)
    return numbers, good
