"""Parquet files of a source, looked into before Spark reads them: their schemas, and what is damaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pyspark

from jobs.preparation.damage import DamagedRowGroup, copied, damaged_row_groups, in_copies
from jobs.preparation.failures import unreadable_file
from trainer.errors import DataError

_FIXES = ["write the files again with the same columns", "list in `path` the files that fit together"]
_SHOWN = 20
_LARGEST_PRECISION = 38
_NO_TYPE = "Null"
_OF_SPARK = b"org.apache.spark.sql.parquet.row.metadata"
_NANOS = "timestamp in nanoseconds"
_TIME_OF_DAY_FROM = (4, 1)
# Whole numbers up to here are exact in a double.
_EXACT = 2**53

Columns = dict[str, tuple[str, ...]]
"""By top-level column in lower case: the stored types below it."""


@dataclass(frozen=True)
class ParquetGroup:
    """Files that Spark can read in one go.

    Attributes:
        paths: for Spark.
        files: themselves, for errors; empty where only Spark can open them.
        base: folder below which folder names are partition columns; None where Spark finds it.
        folder: what was given of `files`: `base`, but where `paths` are copies.
        untyped: columns in lower case that hold nulls, or lists of nulls, of no type.
        nanoseconds: columns in lower case of timestamps in nanoseconds, or of lists of them, and whether they
            are local times. Spark takes them for integers.
        schema: of all files, where it is plain; Spark then need not start a job to find the same one.
    """

    paths: tuple[str, ...]
    files: tuple[str, ...] = ()
    base: str | None = None
    folder: str | None = None
    untyped: frozenset[str] = frozenset()
    nanoseconds: Mapping[str, bool] = field(default_factory=dict)
    schema: pa.Schema | None = None


@dataclass(frozen=True)
class _Looked:
    """One file.

    Attributes:
        file: as it was found.
        path: of what is to be read in its place.
        base: the folder that was given, if it was, or that of its copies.
        folder: the folder that was given, if it was.
        columns: types; None where the footer cannot be read.
        brotli: whether Spark lacks its codec.
        row_groups: number of them.
        damaged: those that cannot be decoded, where it was tried.
        rows: as the footer says.
        schema: see `ParquetGroup`.
    """

    file: str
    path: str
    base: str | None
    folder: str | None
    columns: Columns | None
    brotli: bool = False
    row_groups: int = 0
    damaged: tuple[DamagedRowGroup, ...] = ()
    rows: int = 0
    schema: pa.Schema | None = None


def parquet_groups(
    paths: Sequence[str], files: Sequence[tuple[str, str | None]], *, local: bool, skip: bool
) -> tuple[list[ParquetGroup], list[str]]:
    """Look into local files, and group those that have the same types of columns.

    Args:
        paths: that were given.
        files: all files of them, at least one, with the folder of `paths` that each was found in, if it was.
        local: whether Spark runs on this machine, so that it can read copies.
        skip: leave out what is damaged.

    Returns:
        One group with the paths as given where all files fit together; and what was left out, as lines for
        the report.

    Raises:
        DataError: a file is damaged (without `skip`), lacks a column of the others, or is of Brotli where
            Spark cannot read copies.
    """
    with ThreadPoolExecutor(8) as pool:
        looked = list(pool.map(partial(_look, skip=skip), files))
    sound = [_readable(look, local) for look in looked if look.columns is not None]
    kept = [look for look in sound if look is not None]
    lost = _lost(looked, [look.file for look in kept])
    if not kept:
        raise DataError(
            "every file of the source is damaged", where=looked[0].file, got=f"{len(looked)} file(s)"
        )
    _check_same_columns(kept)
    groups = _grouped(kept)
    if len(groups) == 1 and not lost and all(look.path == look.file for look in kept):
        return [replace(groups[0], paths=tuple(paths), base=None)], []
    return groups, lost


def _look(place: tuple[str, str | None], *, skip: bool) -> _Looked:
    file, base = place
    try:
        footer = pq.read_metadata(file)
    except PermissionError as error:
        raise unreadable_file(file, "Parquet", error) from error
    except (pa.ArrowException, OSError) as error:
        if skip:
            return _Looked(file, file, base, base, None)
        raise unreadable_file(file, "Parquet", error) from error
    _check_readable_types(file, footer.schema)
    groups = footer.num_row_groups
    return _Looked(
        file,
        file,
        base,
        base,
        _columns(footer.schema),
        groups > 0 and footer.num_columns > 0 and footer.row_group(0).column(0).compression == "BROTLI",
        groups,
        tuple(damaged_row_groups(file)) if skip else (),
        footer.num_rows,
        _plain_schema(footer),
    )


def _readable(look: _Looked, local: bool) -> _Looked | None:
    """Return the file with a copy to read where Spark cannot read it itself, None where nothing is left."""
    bad = {group.number for group in look.damaged}
    good = [number for number in range(look.row_groups) if number not in bad]
    if not bad and not look.brotli:
        return look
    if not good and bad:
        return None
    if not local and bad:
        return None  # the executors may not reach a copy
    if not local:
        raise DataError(
            "Spark cannot read Parquet files packed with Brotli",
            where=look.file,
            fixes=[
                "write them with zstd or snappy",
                "prepare on one machine (local Spark), which unpacks them",
            ],
        )
    base = None if look.base is None else in_copies(look.base)
    return replace(look, path=copied(look.file, good), base=base)


def _lost(looked: Sequence[_Looked], kept: Sequence[str]) -> list[str]:
    """Return a line for each file that lost something, at most `_SHOWN` of them, and one for the others."""
    lines: list[tuple[str, int]] = []
    for look in looked:
        if look.columns is None:
            lines.append((f"the whole file {look.file}, its rows unknown", 0))
        elif look.file not in kept:
            lines.append((f"the whole file {look.file}, {look.rows:,} rows", look.rows))
        elif look.damaged:
            numbers = ", ".join(str(group.number) for group in look.damaged)
            rows = sum(group.rows for group in look.damaged)
            lines.append((f"row group(s) {numbers} of {look.file}, {rows:,} rows", rows))
    others = lines[_SHOWN:]
    if others:
        more = f"parts of {len(others):,} more files, {sum(rows for _, rows in others):,} rows"
        lines = [*lines[:_SHOWN], (more, 0)]
    return [f"skipped as damaged: {line}" for line, _ in lines]


def _check_readable_types(file: str, schema: pq.ParquetSchema) -> None:
    for leaf in map(schema.column, range(len(schema))):
        if str(leaf.logical_type).startswith("Decimal") and leaf.precision > _LARGEST_PRECISION:
            raise DataError(
                f"column {leaf.path!r} holds decimals of more digits than Spark can read",
                where=file,
                got=str(leaf.logical_type),
                allowed=f"precision up to {_LARGEST_PRECISION}",
                fixes=["write it as text, or as decimals of fewer digits", "drop the column"],
            )
    if tuple(map(int, pyspark.__version__.split(".")[:2])) >= _TIME_OF_DAY_FROM:
        return
    for number in range(len(schema)):
        leaf = schema.column(number)
        if str(leaf.logical_type).startswith("Time("):
            raise DataError(
                f"column {leaf.path!r} holds times of day, which Spark {pyspark.__version__} cannot read",
                where=file,
                got=f"{leaf.physical_type} ({leaf.logical_type})",
                fixes=["write it as text or as a number", "drop the column"],
            )


def _check_same_columns(looked: Sequence[_Looked]) -> None:
    """Check names. Spark takes one file's columns for all, and fills what another lacks with nulls."""
    first = looked[0]
    for look in looked[1:]:
        assert look.columns is not None
        assert first.columns is not None
        for lacking, has in ((look, first), (first, look)):
            missing = [name for name in has.columns or () if name not in (lacking.columns or ())]
            if missing:
                raise DataError(
                    f"column {missing[0]!r} is missing in one of the Parquet files",
                    where=lacking.file,
                    got=f"{has.file} has it",
                    fixes=_FIXES,
                )


def _grouped(looked: Sequence[_Looked]) -> list[ParquetGroup]:
    members: dict[tuple[str | None, tuple[tuple[str, tuple[str, ...]], ...]], list[_Looked]] = {}
    for look in looked:
        members.setdefault((look.base, tuple(sorted((look.columns or {}).items()))), []).append(look)
    return [
        ParquetGroup(
            tuple(look.path for look in group),
            tuple(look.file for look in group),
            base,
            group[0].folder,
            frozenset(name for name, types in columns if all(kind.endswith(_NO_TYPE) for kind in types)),
            {
                name: types[0].endswith(f"local {_NANOS}")
                for name, types in columns
                if all(kind.endswith(_NANOS) for kind in types)
            },
            _common_schema(group),
        )
        for (base, columns), group in members.items()
    ]


def _plain_schema(footer: pq.FileMetaData) -> pa.Schema | None:
    """Return the schema of a file whose columns Spark reads as what Arrow says, else None."""
    if _OF_SPARK in (footer.metadata or {}):  # may hold types of Spark's own
        return None
    schema = footer.schema.to_arrow_schema().remove_metadata()
    distinct = len({name.lower() for name in schema.names}) == len(schema)
    return schema if distinct and all(map(_is_plain, schema.types)) else None


def _is_plain(kind: pa.DataType) -> bool:
    whole = pa.types.is_signed_integer(kind) or pa.types.is_boolean(kind)
    return bool(whole or kind in (pa.float32(), pa.float64(), pa.string()))


def _common_schema(looked: Sequence[_Looked]) -> pa.Schema | None:
    first = looked[0].schema
    in_partitions = any("=" in look.path for look in looked)
    return first if not in_partitions and all(look.schema == first for look in looked) else None


def _columns(schema: pq.ParquetSchema) -> Columns:
    """Return the stored types below each top-level column, as far as Spark reads them differently."""
    columns: dict[str, tuple[str, ...]] = {}
    for number in range(len(schema)):
        leaf = schema.column(number)
        name = _top(leaf).lower()
        columns[name] = (*columns.get(name, ()), _stored_type(leaf))
    return columns


def _top(leaf: pq.ColumnSchema) -> str:
    flat = leaf.name == leaf.path  # else a part of a list or struct; a flat name may hold dots too
    return str(leaf.path) if flat else str(leaf.path).split(".")[0]


def _stored_type(leaf: pq.ColumnSchema) -> str:
    physical, logical = leaf.physical_type, str(leaf.logical_type)
    if logical == _NO_TYPE:
        kind = _NO_TYPE
    elif logical.startswith("Timestamp") or physical == "INT96":
        kind = _NANOS if "timeUnit=nanoseconds" in logical else "timestamp"
        kind = f"local {kind}" if "isAdjustedToUTC=false" in logical else kind
    else:
        kind = physical if logical == "None" else f"{physical} ({logical})"
    # Its place among lists and structs is a part of the type.
    return kind if leaf.name == leaf.path else f"{leaf.path.partition('.')[2]} {kind}"


def holds_exact_integers(files: Sequence[str], column: str) -> bool:
    """Return whether the whole numbers of a column are such as a double holds exactly, as footers tell.

    Args:
        files: of Parquet.
        column: top-level one, in any case.
    """
    for file in files:
        footer = pq.read_metadata(file)
        for number in range(footer.num_columns):
            if _top(footer.schema.column(number)).lower() != column.lower():
                continue
            for group in range(footer.num_row_groups):
                found = footer.row_group(group).column(number)
                known = found.statistics
                if known is not None and known.null_count == found.num_values:
                    continue
                if known is None or not known.has_min_max or max(-known.min, known.max) > _EXACT:
                    return False
    return True
