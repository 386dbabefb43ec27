"""Splits that the raw rows name themselves: by the value of a column, or by the file of a row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote

from pyspark.sql import functions as F

from jobs.preparation import columns as C
from trainer.config import SplitConfig
from trainer.config.messages import did_you_mean
from trainer.errors import ConfigError, DataError
from trainer.schema import SPLITS

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_SHOWN = 5


def split_by_value(rows: DataFrame, split: SplitConfig) -> DataFrame:
    """Add `SPLIT` by the values of a column.

    Raises:
        DataError: a value is missing, or stands under no split.
    """
    assert split.column is not None
    where = f"data.split.column: {split.column}"
    value = C.single_token(rows, split.column, where)
    values = {name: [name] for name in SPLITS}
    if split.values is not None:
        values = {name: [str(x) for x in getattr(split.values, name)] for name in SPLITS}
    dealt = _dealt(value, values)
    counts = rows.agg(F.count(F.when(value.isNull(), 1)), F.count(F.when(dealt.isNull(), 1))).first()
    assert counts is not None
    missing, unknown = counts
    if missing:
        raise DataError(
            f"{missing:,} row(s) have no value in the split column",
            where=where,
            fixes=[f"data.clean.drop_missing: [{split.column}]"],
        )
    if unknown:
        found = rows.where(dealt.isNull()).groupBy(value.alias("value")).count()
        worst = found.orderBy(F.col("count").desc(), "value").limit(_SHOWN).collect()
        known = [x for listed in values.values() for x in listed]
        near = did_you_mean(str(worst[0]["value"]), known)
        raise DataError(
            f"{unknown:,} row(s) have a value that no split names",
            where=where,
            got=", ".join(f"{row['value']} ({row['count']:,} rows)" for row in worst),
            allowed=known,
            fixes=[
                *([near] if near else []),
                "add it under data.split.values",
                "data.clean.where drops rows",
            ],
        )
    return rows.withColumn(C.SPLIT, dealt)


def split_by_file(rows: DataFrame, split: SplitConfig) -> DataFrame:
    """Add `SPLIT` by the file that a row comes from.

    Raises:
        ConfigError: the rows come from no file, or a glob matches none.
        DataError: a file matches no glob, or those of two splits.
    """
    assert split.files is not None
    if C.FILE not in rows.columns:
        raise ConfigError(
            "the rows come from no files",
            where="data.split.method: files",
            got="a table or a DataFrame",
            fixes=["data.split.method: column", "set data.source.path"],
        )
    files = sorted(row[0] for row in rows.select(C.FILE).distinct().collect())
    globs: dict[str, list[str]] = {name: getattr(split.files, name) for name in SPLITS}
    of_split: dict[str, list[str]] = {name: [] for name in SPLITS}
    for file in files:
        path = PurePosixPath(unquote(file))
        matches = [name for name in SPLITS if any(path.match(glob) for glob in globs[name])]
        if len(matches) != 1:
            raise DataError(
                f"a file of the source belongs to {' and '.join(matches) if matches else 'no split'}",
                where="data.split.files",
                got=str(path),
                allowed="; ".join(f"{name}: {', '.join(listed)}" for name, listed in globs.items() if listed),
            )
        of_split[matches[0]].append(file)
    for name, listed in globs.items():
        for glob in listed:
            if not any(PurePosixPath(unquote(file)).match(glob) for file in of_split[name]):
                raise ConfigError(
                    "no file with rows matches this glob",
                    where=f"data.split.files.{name}",
                    got=glob,
                    allowed=[unquote(file).rpartition("/")[2] for file in files[:_SHOWN]],
                )
    return rows.withColumn(C.SPLIT, _dealt(F.col(C.FILE), of_split)).drop(C.FILE)


def _dealt(value: Column, values: Mapping[str, list[str]]) -> Column:
    """Return the split whose list holds the value, or null."""
    dealt = F.when(F.lit(False), F.lit(None).cast("string"))
    for name, listed in values.items():
        dealt = dealt.when(value.isin(listed), F.lit(name))
    return dealt
