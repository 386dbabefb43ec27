"""Numbers the rows of files in file order, in parallel and the same however Spark cuts the files up."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from fnmatch import fnmatch
from typing import TYPE_CHECKING
from urllib.parse import unquote

from pyspark.sql import functions as F

from jobs.preparation.columns import quoted
from jobs.preparation.failures import RAISED, column_twice
from jobs.preparation.files import SourceFiles
from trainer.storage import local_path

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row

_KEYS = ("__partition", "__file", "__block")
_PLACE = "__place"
_START = "__start"
_HOST = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:(//[^/]*)?")
# `monotonically_increasing_id` holds the partition above these bits and the row within it below.
_ROW_BITS = 33


def with_row_numbers(rows: DataFrame, files: SourceFiles, name: str) -> DataFrame:
    """Add a column that numbers the rows from 0: files in the order given, those of a folder by name.

    A first pass counts the rows of every block (the piece of a file that one task reads), which come to the
    driver as one short row per block; the second adds to each block's start the place within the block.

    Args:
        rows: as Spark's reader gives them, nothing filtered yet.
        files: that are read.
        name: of the column, bigint.

    Raises:
        DataError: the rows have a column of that name.
    """
    if name.lower() in {have.lower() for have in rows.columns}:
        raise column_twice(name, "row_number", rows.columns)
    given = rows.columns
    number = F.monotonically_increasing_id()
    placed = rows.select(
        *[F.col(quoted(column)) for column in given],
        F.shiftright(number, _ROW_BITS).alias(_KEYS[0]),
        F.col("_metadata.file_path").alias(_KEYS[1]),
        F.col("_metadata.file_block_start").alias(_KEYS[2]),
        number.bitwiseAND(F.lit((1 << _ROW_BITS) - 1)).alias(_PLACE),
    )
    blocks = (
        placed.groupBy(*_KEYS).agg(F.count(F.lit(1)).alias("rows"), F.min(_PLACE).alias("first")).collect()
    )
    starts = rows.sparkSession.createDataFrame(
        _starts(blocks, files), f"{_KEYS[0]} bigint, {_KEYS[1]} string, {_KEYS[2]} bigint, {_START} bigint"
    )
    found = placed.join(F.broadcast(starts), list(_KEYS), "left")
    changed = F.lit(
        f"{RAISED}the files, or how Spark cuts them up, have changed between two passes over them"
    )
    value = F.when(F.col(_START).isNull(), F.raise_error(changed).cast("bigint")).otherwise(
        F.col(_START) + F.col(_PLACE)
    )
    return found.select(*[F.col(quoted(column)) for column in given], value.alias(name))


def _starts(blocks: list[Row], files: SourceFiles) -> list[tuple[int, str, int, int]]:
    """Return for each block the number of its first row, less that row's place in its partition."""
    order = _file_order(files)
    ordered = sorted(blocks, key=lambda row: (order(row[_KEYS[1]]), row[_KEYS[2]]))
    starts, total = [], 0
    for block in ordered:
        starts.append((*(block[key] for key in _KEYS), total - block["first"]))
        total += block["rows"]
    return starts


def _file_order(files: SourceFiles) -> Callable[[str], tuple[int, str]]:
    """Return what sorts the files, given as Spark's URLs: by place in the list, then by name."""
    here = {os.path.realpath(path): number for number, path in enumerate(files.here)}
    unescaped = [re.sub(r"\\(.)", r"\1", path).rstrip("/") for path in files.paths]
    given = [local_path(path) or path for path in unescaped]

    def order(url: str) -> tuple[int, str]:
        path = unquote(url)
        local = local_path(path)
        if local is not None and os.path.realpath(local) in here:
            return here[os.path.realpath(local)], path
        # Spark's URL names the scheme and host that a bare path of its default file system lacks.
        names = (local or path, _HOST.sub("", path))
        within = (n for n, start in enumerate(given) if any(_is_below(name, start) for name in names))
        return next(within, len(given)), path

    return order


def _is_below(path: str, start: str) -> bool:
    return f"{path}/".startswith(f"{start}/") or fnmatch(path, start)
