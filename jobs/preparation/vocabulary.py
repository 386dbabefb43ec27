"""Vocabularies: fitted on the training rows in one pass, stored as Parquet, looked up by joins."""

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

from trainer.schema import FIRST_VOCABULARY_ID, OUT_OF_VOCABULARY_ID, PADDING_ID, FeatureSpec

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

VOCABULARY_FOLDER = "vocabulary"
_SCHEMA = "value string, id bigint, count bigint"
# Values of the vocabularies that one broadcast join table holds together (about 100 MB); vocabularies that
# do not fit in are joined on their own, by whatever join Spark finds best.
BROADCAST_VALUES = 1_000_000
# Values sorted by one task.
_VALUES_PER_PARTITION = 2_000_000


@dataclass(frozen=True)
class FittedVocabulary:
    """A stored vocabulary: its folder inside the data set, number of values, and digest."""

    folder: str
    size: int
    digest: str


@dataclass(frozen=True)
class VocabularyColumn:
    """What to make a vocabulary of: tokens of the training rows (one or a list per row), and the limits."""

    table: str
    tokens: Column
    is_list: bool
    min_count: int
    max_size: int | None


def vocabulary_folders(tables: Sequence[str]) -> dict[str, str]:
    """Return a folder for each table: its name, with characters outside A-Z a-z 0-9 _ . - replaced."""
    folders: dict[str, str] = {}
    for table in tables:
        plain = re.sub(r"[^A-Za-z0-9_.-]", "_", table).lstrip("._") or "table"
        name, number = plain, 1
        while f"{VOCABULARY_FOLDER}/{name}" in folders.values():
            number += 1
            name = f"{plain}_{number}"
        folders[table] = f"{VOCABULARY_FOLDER}/{name}"
    return folders


def fit_vocabularies(
    train: DataFrame, wanted: Sequence[VocabularyColumn], dataset: Path, spark: SparkSession
) -> dict[str, FittedVocabulary]:
    """Count the tokens of all tables in one pass, number them, and write `vocabulary/<table>/`.

    Args:
        train: the training rows.
        wanted: one per table.
        dataset: folder of the data set under construction.
        spark: the session.

    Returns:
        The vocabularies by table. Ids start at 2, most frequent value first, ties by value.
    """
    if not wanted:
        return {}
    counts = _counts(train, wanted).persist()
    try:
        sizes = {
            row["table"]: row["n"]
            for row in counts.groupBy("table").agg(F.count(F.lit(1)).alias("n")).collect()
        }
        numbered = _numbered(counts, sizes)
        for v in wanted:
            if v.max_size is not None:
                frequent = F.col("id") < FIRST_VOCABULARY_ID + v.max_size
                numbered = numbered.where((F.col("table") != v.table) | frequent)
        folders = vocabulary_folders([v.table for v in wanted])
        _write(numbered, folders, dataset)
    finally:
        counts.unpersist()
    return _digests(folders, dataset, spark)


def _counts(train: DataFrame, wanted: Sequence[VocabularyColumn]) -> DataFrame:
    """Return table, value, count of the tokens that are frequent enough."""
    single = [_pair(v.table, v.tokens) for v in wanted if not v.is_list]
    lists = [_pairs(v.table, v.tokens) for v in wanted if v.is_list]
    pairs = F.concat(*([F.array(*single)] if single else []), *lists)
    long = train.select(F.explode(pairs).alias("pair")).select("pair.*").where(F.col("value").isNotNull())
    counts = long.groupBy("table", "value").agg(F.count(F.lit(1)).alias("count"))
    enough = F.lit(False)
    for least in sorted({v.min_count for v in wanted}):
        tables = [v.table for v in wanted if v.min_count == least]
        enough = enough | (F.col("table").isin(tables) & (F.col("count") >= least))
    return counts.where(enough)


def _pair(table: str, token: Column) -> Column:
    return F.struct(F.lit(table).alias("table"), token.alias("value"))


def _pairs(table: str, tokens: Column) -> Column:
    return F.transform(tokens, lambda token: _pair(table, token))


def _numbered(counts: DataFrame, sizes: Mapping[str, int]) -> DataFrame:
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
    starts_by_table = F.create_map(*[F.lit(x) for table, start in first.items() for x in (table, start)])
    number = position - starts_by_table[F.col("table")] + FIRST_VOCABULARY_ID
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
        target.mkdir(parents=True)
        parts = sorted((raw / f"n={place}").glob("*.parquet"))
        for part, file in enumerate(parts):
            file.replace(target / f"part-{part:05d}.parquet")
        if not parts:
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


@dataclass(frozen=True)
class Vocabularies:
    """The vocabularies of a data set, ready to be joined.

    Attributes:
        shared: columns `key` (folder and value) and `id` of all small vocabularies, broadcast once however
            many features look into it; None when there are none.
        alone: `value` and `id` of each vocabulary too large for that, by folder.
    """

    shared: DataFrame | None
    alone: Mapping[str, DataFrame]

    @classmethod
    def load(cls, spec: FeatureSpec, dataset: str | Path, spark: SparkSession) -> Vocabularies:
        """Read the vocabularies that a spec names."""
        sizes = {f.vocabulary: f.num_embeddings or 0 for f in spec.features if f.vocabulary is not None}
        small: list[str] = []
        for folder in sorted(sizes, key=lambda name: (sizes[name], name)):
            if sum(sizes[name] for name in small) + sizes[folder] <= BROADCAST_VALUES:
                small.append(folder)
        shared = None
        if small:
            rows = _read(small, Path(dataset), spark)
            shared = F.broadcast(rows.select(_key(F.col("folder"), F.col("value")).alias("key"), "id"))
        alone = {
            folder: _read([folder], Path(dataset), spark).select("value", "id")
            for folder in sizes
            if folder not in small
        }
        return cls(shared, alone)

    def lookup(self, frame: DataFrame, wanted: Sequence[tuple[str, str, str]]) -> DataFrame:
        """Turn token columns into id columns: 0 for a missing token, 1 for one the vocabulary lacks.

        Args:
            frame: the rows.
            wanted: token column, vocabulary folder, id column (which may replace the token column).
        """
        for number, (tokens, folder, _) in enumerate(wanted):
            key, found = f"__key_{number}", f"__found_{number}"
            if folder in self.alone:
                side = self.alone[folder].select(F.col("value").alias(key), F.col("id").alias(found))
                match = F.col(tokens) == F.col(key)
            else:
                assert self.shared is not None, f"no vocabulary {folder}"
                side = self.shared.select(F.col("key").alias(key), F.col("id").alias(found))
                match = _key(F.lit(folder), F.col(tokens)) == F.col(key)
            frame = frame.join(side, match, "left").drop(key)
        numbered: dict[str, Column] = {}
        for number, (tokens, _, ids) in enumerate(wanted):
            known = F.coalesce(F.col(f"__found_{number}"), F.lit(OUT_OF_VOCABULARY_ID))
            numbered[ids] = F.when(F.col(tokens).isNull(), F.lit(PADDING_ID)).otherwise(known).cast("bigint")
        frame = frame.withColumns(numbered) if numbered else frame
        return frame.drop(*[f"__found_{number}" for number in range(len(wanted))])

    def lookup_lists(self, frame: DataFrame, lists: str, folder: str) -> DataFrame:
        """Turn a column of token lists into id lists of the same length and order.

        Every distinct list is looked up once: lists such as genres or tags repeat a lot.
        """
        distinct = frame.select(F.col(lists).alias("list")).where(F.size("list") > 0).distinct()
        long = distinct.select("list", F.posexplode("list").alias("place", "token"))
        long = self.lookup(long, [("token", folder, "id")])
        numbered = long.groupBy("list").agg(
            F.sort_array(F.collect_list(F.struct("place", "id"))).alias("ids")
        )
        numbered = numbered.select(F.col("list").alias("__list"), F.col("ids")["id"].alias("__ids"))
        joined = frame.join(numbered, F.col(lists) == F.col("__list"), "left")
        ids = F.coalesce(F.col("__ids"), F.array().cast("array<bigint>"))
        return joined.withColumn(lists, ids).drop("__list", "__ids")


def _key(folder: Column, value: Column) -> Column:
    return F.concat(folder, F.lit("\n"), value)
