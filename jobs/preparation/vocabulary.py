"""Vocabularies: numbered by a distributed sort of the counted values, and stored as Parquet."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import functions as F

from trainer.schema import FIRST_VOCABULARY_ID

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

VOCABULARY_FOLDER = "vocabulary"
_SCHEMA = "value string, id bigint, count bigint"
# Values sorted by one task.
_VALUES_PER_PARTITION = 2_000_000


@dataclass(frozen=True)
class FittedVocabulary:
    """A stored vocabulary: its folder inside the data set, number of values, and digest."""

    folder: str
    size: int
    digest: str


@dataclass(frozen=True)
class WantedVocabulary:
    """What to make of the counted values of a table: the limits, and the id of the most frequent value."""

    table: str
    min_count: int
    max_size: int | None
    first_id: int = FIRST_VOCABULARY_ID


@dataclass(frozen=True)
class GrownVocabulary:
    """A stored vocabulary to be grown: its folder, its limits, and the id of its first new value."""

    folder: str
    wanted: WantedVocabulary
    first_new: int


def plain_folders(names: Sequence[str], parent: str) -> dict[str, str]:
    """Return a folder below `parent` for each name, with characters outside A-Z a-z 0-9 _ . - replaced."""
    folders: dict[str, str] = {}
    for own in names:
        plain = re.sub(r"[^A-Za-z0-9_.-]", "_", own).lstrip("._") or "table"
        name, number = plain, 1
        while f"{parent}/{name}" in folders.values():
            number += 1
            name = f"{plain}_{number}"
        folders[own] = f"{parent}/{name}"
    return folders


def fit_vocabularies(
    values: DataFrame, wanted: Sequence[WantedVocabulary], dataset: Path, spark: SparkSession
) -> dict[str, FittedVocabulary]:
    """Number the values of all tables and write `vocabulary/<table>/`; no value passes through the driver.

    Args:
        values: columns `table`, `value`, `count` of the training rows; a value may stand in several rows.
        wanted: one per table.
        dataset: folder of the data set under construction.
        spark: the session.

    Returns:
        The vocabularies by table: ids in order of frequency, ties by value.
    """
    if not wanted:
        return {}
    counts = _counts(values, wanted).persist()
    try:
        sizes = _sizes(counts)
        numbered = _numbered(counts, sizes, {v.table: v.first_id for v in wanted})
        for v in wanted:
            if v.max_size is not None:
                frequent = F.col("id") < v.first_id + v.max_size
                numbered = numbered.where((F.col("table") != v.table) | frequent)
        folders = plain_folders([v.table for v in wanted], VOCABULARY_FOLDER)
        _write(numbered, folders, dataset)
    finally:
        counts.unpersist()
    return _digests(folders, dataset, spark)


def grow_vocabularies(
    values: DataFrame, grown: Sequence[GrownVocabulary], dataset: Path, spark: SparkSession
) -> dict[str, FittedVocabulary]:
    """Give the values that vocabularies lack the ids after their last ones, and add them as new parts.

    Args:
        values: as of `fit_vocabularies`, of the new rows.
        grown: one per table.
        dataset: folder of the data set under construction, which holds the vocabularies.
        spark: the session.

    Returns:
        The vocabularies by table: old ids as they were, new ones in order of frequency, ties by value.
    """
    if not grown:
        return {}
    tables = {g.folder: g.wanted.table for g in grown}
    known = _read(list(tables), dataset, spark)
    table_of = F.create_map(*[F.lit(x) for folder, table in tables.items() for x in (folder, table)])
    known = known.select(table_of[F.col("folder")].alias("table"), "value")
    counts = _counts(values, [g.wanted for g in grown]).join(known, ["table", "value"], "left_anti").persist()
    try:
        sizes = _sizes(counts)
        numbered = _numbered(counts, sizes, {g.wanted.table: g.first_new for g in grown})
        for g in grown:
            if g.wanted.max_size is not None:
                fits = F.col("id") < g.wanted.first_id + g.wanted.max_size
                numbered = numbered.where((F.col("table") != g.wanted.table) | fits)
        folders = {table: folder for folder, table in tables.items()}
        _write(numbered, folders, dataset)
    finally:
        counts.unpersist()
    return _digests(folders, dataset, spark)


def _sizes(counts: DataFrame) -> dict[str, int]:
    found = counts.groupBy("table").agg(F.count(F.lit(1)).alias("n")).collect()
    return {row["table"]: row["n"] for row in found}


def _counts(values: DataFrame, wanted: Sequence[WantedVocabulary]) -> DataFrame:
    """Return table, value, count of the tokens that are frequent enough."""
    counts = values.groupBy("table", "value").agg(F.sum("count").alias("count"))
    enough = F.lit(False)
    for least in sorted({v.min_count for v in wanted}):
        tables = [v.table for v in wanted if v.min_count == least]
        enough = enough | (F.col("table").isin(tables) & (F.col("count") >= least))
    return counts.where(enough)


def _numbered(counts: DataFrame, sizes: Mapping[str, int], first_ids: Mapping[str, int]) -> DataFrame:
    """Number the values of each table by one global sort, which scales where a window per table would not."""
    order = [F.col("table"), F.col("count").desc(), F.col("value")]
    partitions = max(1, math.ceil(sum(sizes.values()) / _VALUES_PER_PARTITION))
    placed = counts.repartitionByRange(partitions, *order).sortWithinPartitions(*order)
    placed = placed.withColumn("place", F.monotonically_increasing_id())
    position = F.col("place")
    if partitions > 1:
        # The id holds the partition in its upper bits and the row within it in the lower 33.
        placed = placed.persist()
        part = F.shiftright("place", 33)
        rows = {
            row["p"]: row["n"]
            for row in placed.groupBy(part.alias("p")).count().withColumnRenamed("count", "n").collect()
        }
        starts = [sum(rows.get(p, 0) for p in range(number)) for number in range(partitions)]
        position = F.array(*[F.lit(start).cast("bigint") for start in starts])[part.cast("int")] + F.col(
            "place"
        ).bitwiseAND(F.lit((1 << 33) - 1))
    first: dict[str, int] = {}
    for table in sorted(sizes, key=lambda name: name.encode()):
        first[table] = sum(sizes[name] for name in first)
    shifts = {table: first_ids[table] - start for table, start in first.items()}
    pairs = [x for table, shift in shifts.items() for x in (F.lit(table), F.lit(shift).cast("bigint"))]
    # No table has a value where all values are missing: there is no map without entries.
    number = position + F.create_map(*pairs)[F.col("table")] if pairs else position
    return placed.select("table", "value", number.cast("bigint").alias("id"), "count")


def _write(numbered: DataFrame, folders: Mapping[str, str], dataset: Path) -> None:
    """Write one folder of Parquet parts per table, an empty part where a table has no value at all."""
    raw = dataset / "_vocabulary"
    # Spark escapes table names in folder names; numbers need no escaping.
    number = F.create_map(*[F.lit(x) for n, table in enumerate(folders) for x in (table, n)])
    labelled = numbered.withColumn("n", number[F.col("table")])
    labelled.select("n", "value", "id", "count").write.partitionBy("n").option("compression", "zstd").parquet(
        str(raw)
    )
    schema = pa.schema([("value", pa.string()), ("id", pa.int64()), ("count", pa.int64())])
    for place, folder in enumerate(folders.values()):
        target = dataset / folder
        target.mkdir(parents=True, exist_ok=True)
        there = len(list(target.glob("part-*.parquet")))
        parts = sorted((raw / f"n={place}").glob("*.parquet"))
        for part, file in enumerate(parts, start=there):
            file.replace(target / f"part-{part:05d}.parquet")
        if not parts and not there:
            pq.write_table(schema.empty_table(), target / "part-00000.parquet")
    shutil.rmtree(raw)


def _read(folders: Sequence[str], dataset: Path, spark: SparkSession) -> DataFrame:
    """Return folder, value, id of several vocabularies."""
    rows = spark.read.schema(_SCHEMA).parquet(*[str(dataset / folder) for folder in folders])
    name = F.regexp_extract(F.col("_metadata.file_path"), r"/([^/]+)/[^/]+$", 1)
    return rows.select(F.concat(F.lit(f"{VOCABULARY_FOLDER}/"), name).alias("folder"), "value", "id")


def _digests(folders: Mapping[str, str], dataset: Path, spark: SparkSession) -> dict[str, FittedVocabulary]:
    rows = _read(list(folders.values()), dataset, spark)
    found = rows.groupBy("folder").agg(
        F.count(F.lit(1)).alias("size"),
        # Exclusive or forgets the order of the rows, as a digest of a set must.
        F.expr("bit_xor(xxhash64(value, id))").alias("a"),
        F.expr("bit_xor(xxhash64(id, value, 7))").alias("b"),
    )
    by_folder = {row["folder"]: row for row in found.collect()}
    result: dict[str, FittedVocabulary] = {}
    for table, folder in folders.items():
        row = by_folder.get(folder)
        mask = (1 << 64) - 1
        digest = f"{row['a'] & mask:016x}{row['b'] & mask:016x}" if row else "0" * 32
        result[table] = FittedVocabulary(folder, row["size"] if row else 0, digest)
    return result
