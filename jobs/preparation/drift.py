"""Reads files of one source whose columns differ in order or type, as one frame of the wider types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_schema

from jobs.preparation.columns import column, quoted
from jobs.preparation.files import escaped
from jobs.preparation.parquet_files import ParquetGroup, holds_exact_integers
from jobs.preparation.spark_paths import spark_path
from jobs.session import NANOSECONDS
from trainer.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

METADATA = "_metadata"
"""Spark's own column of this name tells each row's file; it does not outlive a union."""
_INTEGERS: tuple[type[T.DataType], ...] = (T.ByteType, T.ShortType, T.IntegerType, T.LongType)


@dataclass(frozen=True)
class _Column:
    """The type of a column so far, and the file that it was met in first."""

    name: str
    kind: T.DataType
    file: str


def read_parquet(groups: Sequence[ParquetGroup], spark: SparkSession) -> DataFrame:
    """Read Parquet files; types that differ become the wider one where every value stays exactly the same.

    Args:
        groups: files of the same types each.
        spark: the session.

    Returns:
        The rows, in the column order of the first group; with more than one group also the column
        `METADATA`.

    Raises:
        DataError: the types of a column have no common one.
    """
    drift = len(groups) > 1
    folders = {group.folder for group in groups if group.folder is not None} if drift else set()
    partitions = {folder: _partition_types(folder, groups, spark) for folder in folders}
    frames = [_read(group, spark, partitions.get(group.folder or "", {}), drift=drift) for group in groups]
    if len(frames) == 1:
        return frames[0]
    columns = [_Column(field.name, field.dataType, _file(groups[0])) for field in frames[0].schema]
    for group, frame in zip(groups[1:], frames[1:], strict=True):
        columns = [_with(c, frame, group) for c in columns]
    for c in columns:
        _check_exact(c, groups, frames)
    return united(
        [
            frame.select(*[column(c.name).cast(c.kind).alias(c.name) for c in columns], METADATA)
            for frame in frames
        ]
    )


def united(frames: Sequence[DataFrame]) -> DataFrame:
    """Put the rows of frames with equal columns, `METADATA` among them, into one frame."""
    kept = [name for name in frames[0].columns if name != METADATA]
    # As a column of ours: Spark's hidden one is lost in a union.
    place = F.struct(
        *[F.col(f"{METADATA}.{name}").alias(name) for name in ("file_path", "file_block_start")]
    ).alias(METADATA)
    rows = frames[0].select(*map(column, kept), place)
    for frame in frames[1:]:
        rows = rows.unionByName(frame.select(*map(column, kept), place))
    return rows


def _partition_types(
    folder: str, groups: Sequence[ParquetGroup], spark: SparkSession
) -> dict[str, T.DataType]:
    """Return the types of the partition columns that Spark finds over all files of a folder."""
    files = [file for group in groups if group.folder == folder for file in group.files]
    parts = {part for file in files for part in Path(file).relative_to(folder).parent.parts}
    names = {unquote(part.partition("=")[0]) for part in parts if "=" in part}
    if not names:
        return {}
    found = spark.read.option("basePath", spark_path(folder)).parquet(*map(escaped, files)).schema
    return {field.name: field.dataType for field in found if field.name in names}


def _read(
    group: ParquetGroup, spark: SparkSession, partitions: dict[str, T.DataType], *, drift: bool
) -> DataFrame:
    reader = spark.read if group.base is None else spark.read.option("basePath", spark_path(group.base))
    if group.schema is not None:
        return reader.schema(from_arrow_schema(group.schema)).parquet(*group.paths)
    with _nanoseconds_as_integers(spark, bool(group.nanoseconds)):
        rows = reader.parquet(*group.paths)
    fields = [T.StructField(f.name, partitions.get(f.name, f.dataType)) for f in rows.schema]
    if any(a.dataType != b.dataType for a, b in zip(fields, rows.schema, strict=True)):
        # Not cast afterwards: `01` beside `eu` is a text, and 1 no longer tells of the zero.
        rows = reader.schema(T.StructType(fields)).parquet(*group.paths)
    # Spark takes nulls of no type for integers.
    untyped = [field for field in rows.schema if field.name.lower() in group.untyped]
    nulls: dict[str, Column] = {}
    for field in untyped:
        if not isinstance(field.dataType, T.ArrayType):
            nulls[field.name] = F.lit(None)
        elif drift:
            # Spark 4.1 fails on such an item where it looks at one.
            x = column(field.name)
            nulls[field.name] = F.when(x.isNotNull(), F.array_repeat(F.lit(None), F.size(x)))
    times = {
        field.name: F.expr(_moment(field, group.nanoseconds[field.name.lower()]))
        for field in rows.schema
        if field.name.lower() in group.nanoseconds
    }
    return rows.withColumns({**nulls, **times}) if nulls or times else rows


@contextmanager
def _nanoseconds_as_integers(spark: SparkSession, wanted: bool) -> Iterator[None]:
    """Let Spark take nanoseconds for integers only where they are known to be some, and can be mended."""
    before = spark.conf.get(NANOSECONDS)
    spark.conf.set(NANOSECONDS, str(wanted).lower())
    try:
        yield
    finally:
        spark.conf.set(NANOSECONDS, str(before))


def _moment(field: T.StructField, local: bool) -> str:
    """Return the timestamps, in microseconds, of a column of nanoseconds or of lists of them, as SQL."""
    if isinstance(field.dataType, T.ArrayType):
        return f"transform({quoted(field.name)}, x -> {_micros('x', local)})"
    return _micros(quoted(field.name), local)


def _micros(sql: str, local: bool) -> str:
    micros = f"(({sql} - pmod({sql}, 1000)) div 1000)"
    if not local:
        return f"timestamp_micros({micros})"
    seconds = f"cast({micros} as decimal(20, 0)) / 1000000"
    return f"timestamp_ntz'1970-01-01 00:00:00' + make_dt_interval(0, 0, 0, {seconds})"


def _file(group: ParquetGroup) -> str:
    return (group.files or group.paths)[0]


def _with(known: _Column, frame: DataFrame, group: ParquetGroup) -> _Column:
    """Return the column with a type that holds the values of another group as well."""
    found = next((f.dataType for f in frame.schema if f.name.lower() == known.name.lower()), None)
    if found is None:
        raise DataError(f"column {known.name!r} is missing in one of the Parquet files", where=_file(group))
    kind = wider(known.kind, found)
    if kind is None:
        raise _differ(known.name, _file(group), found, known.kind, known.file)
    narrower = isinstance(known.kind, T.NullType)
    return _Column(known.name, kind, _file(group) if narrower else known.file)


def wider(a: T.DataType, b: T.DataType) -> T.DataType | None:
    """Return the type that holds the values of both, or None; of bigint and double the values decide."""
    if isinstance(a, T.ArrayType) and isinstance(b, T.ArrayType):
        inner = wider(a.elementType, b.elementType)
        return None if inner is None else T.ArrayType(inner)
    if a.simpleString() == b.simpleString() or isinstance(b, T.NullType):
        return a
    if isinstance(a, T.NullType):
        return b
    kinds = {type(a), type(b)}
    if kinds <= set(_INTEGERS):
        return max((a, b), key=lambda kind: _INTEGERS.index(type(kind)))
    if kinds <= {*_INTEGERS, T.FloatType, T.DoubleType}:
        # A float holds integers of 24 bits only.
        small = kinds <= {T.ByteType, T.ShortType, T.FloatType}
        return T.FloatType() if small else T.DoubleType()
    return None


def _check_exact(known: _Column, groups: Sequence[ParquetGroup], frames: Sequence[DataFrame]) -> None:
    """Check that whole numbers of 64 bits that become doubles stay what they are."""
    if not isinstance(_element(known.kind), T.DoubleType):
        return
    for group, frame in zip(groups, frames, strict=True):
        kind = next(f.dataType for f in frame.schema if f.name.lower() == known.name.lower())
        if isinstance(_element(kind), T.LongType) and not holds_exact_integers(group.files, known.name):
            raise _differ(
                known.name,
                _file(group),
                f"{kind.simpleString()}, with values that a double may not hold exactly",
                known.kind,
                known.file,
            )


def _element(kind: T.DataType) -> T.DataType:
    return _element(kind.elementType) if isinstance(kind, T.ArrayType) else kind


def _differ(name: str, file: str, got: T.DataType | str, wanted: T.DataType, other: str) -> DataError:
    return DataError(
        f"column {name!r} has different types in the Parquet files",
        where=file,
        got=got if isinstance(got, str) else got.simpleString(),
        allowed=f"{wanted.simpleString()}, as in {other}, or a type that one of the two can become exactly",
        fixes=["write the files again with the same types", "list in `path` the files that fit together"],
    )
