"""Checks the types of raw columns before any row is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql import types as T

from trainer.errors import DataError
from trainer.features import chains

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# What Spark hands over; pyspark's own conversion changes its arguments between versions.
_ARROW: dict[type[T.DataType], pa.DataType] = {
    T.StringType: pa.string(),
    T.BooleanType: pa.bool_(),
    T.ByteType: pa.int8(),
    T.ShortType: pa.int16(),
    T.IntegerType: pa.int32(),
    T.LongType: pa.int64(),
    T.FloatType: pa.float32(),
    T.DoubleType: pa.float64(),
    T.DateType: pa.date32(),
    T.TimestampType: pa.timestamp("us", "UTC"),
    T.TimestampNTZType: pa.timestamp("us"),
    T.BinaryType: pa.binary(),
    T.NullType: pa.null(),
}


def check_types(frame: DataFrame, features: Sequence[chains.Chain]) -> None:
    """Check that each feature can be made of columns of these types.

    Raises:
        DataError: one can not; with the type in Spark's words.
    """
    for feature in features:
        kinds = {name: frame.schema[name].dataType for name in chains.raw_columns(feature)}
        try:
            chains.read(feature, {name: pa.array([], _arrow(kind)) for name, kind in kinds.items()})
        except DataError as error:
            shown = ", ".join(kind.simpleString() for kind in kinds.values())
            raise DataError(
                error.what, where=error.where, got=shown, allowed=error.allowed, fixes=error.fixes
            ) from error


def _arrow(kind: T.DataType) -> pa.DataType:
    if isinstance(kind, T.DecimalType):
        return pa.decimal128(kind.precision, kind.scale)
    if isinstance(kind, T.ArrayType):
        return pa.list_(_arrow(kind.elementType))
    found = (arrow for spark, arrow in _ARROW.items() if isinstance(kind, spark))
    return next(found, pa.struct([]))  # structs, maps and others are refused by every feature
