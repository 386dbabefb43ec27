"""Numbers the rows of Parquet parts by where they lie: no task sees all of them."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
from pyspark.sql import functions as F

from jobs.preparation.columns import column
from jobs.preparation.spark_paths import spark_path

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_PART = "__part"
_START = "__start"
_PLACE = "__place_in_part"


def numbered_parts(folder: Path, spark: SparkSession, name: str) -> DataFrame:
    """Return the rows of a folder's parts and their number from 0: parts by name, rows as they lie.

    Parts that Spark wrote of sorted rows are in that order, so that the number is the place in it.

    Args:
        folder: holds `part-*.parquet`.
        spark: the session.
        name: of the column of numbers, bigint.
    """
    parts = sorted(folder.glob("part-*.parquet"))
    rows = [pq.read_metadata(part).num_rows for part in parts]
    starts = zip((part.name for part in parts), accumulate(rows, initial=0), strict=False)
    table = spark.createDataFrame(list(starts), f"{_PART} string, {_START} bigint")
    found = spark.read.parquet(spark_path(folder))
    columns = [column(given) for given in found.columns]
    place = [F.col("_metadata.file_name").alias(_PART), F.col("_metadata.row_index").alias(_PLACE)]
    placed = found.select(*columns, *place).join(F.broadcast(table), _PART)
    return placed.select(*columns, (F.col(_START) + F.col(_PLACE)).alias(name))
