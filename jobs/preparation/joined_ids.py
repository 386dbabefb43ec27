"""Ids of vocabularies that no process could hold: the rows are joined with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.preparation.rows import RawColumns, mapped
from jobs.preparation.spark_paths import spark_path
from trainer.features import chains
from trainer.features.ids import by_place, oov_buckets, unseen_ids
from trainer.features.row_encoder import joined_ids
from trainer.features.values import Tokens
from trainer.features.vocabularies import UNKNOWN, EmptyVocabulary, Vocabulary, read_most_frequent
from trainer.schema import OUT_OF_VOCABULARY_ID, Feature

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

# What the vocabularies may take in each process of an executor; larger ones are joined. On top of a value's
# text, which the footers tell, stand its hash, its id, and its entry in a hash table.
HELD_BYTES = 512 * 2**20
_BYTES_PER_VALUE = 44
# Values of each such vocabulary that every process holds all the same; see `_keys`.
_HOT_VALUES = 200_000
# Ids of vectors have no counts: a sample of the rows tells those of them that every process holds.
_SAMPLED_SHARE = 0.01
_HOT_SAMPLED = 1_000
_HOT_VECTORS = 10_000
_KEY, _KNOWN = "__key_{}", "__known_{}"
_SALT = "\0salt "


def large_vocabularies(features: Sequence[Feature], dataset: Path) -> set[str]:
    """Return the vocabulary folders that are to be joined: the largest ones, until the rest fits."""
    folders = {f.vocabulary for f in features if f.vocabulary is not None}
    sizes = {folder: _bytes(dataset / folder) for folder in folders}
    large: set[str] = set()
    held = sum(sizes.values())
    for folder in sorted(sizes, key=lambda name: (-sizes[name], name)):
        if held <= HELD_BYTES:
            break
        large.add(folder)
        held -= sizes[folder]
    return large


def _bytes(folder: Path) -> int:
    total = 0
    for path in folder.glob("*.parquet"):
        footer = pq.read_metadata(path)
        texts = sum(
            footer.row_group(n).column(0).total_uncompressed_size for n in range(footer.num_row_groups)
        )
        total += texts + _BYTES_PER_VALUE * footer.num_rows
    return total


def with_joined_ids(
    frame: DataFrame, features: Sequence[Feature], dataset: Path, spark: SparkSession
) -> tuple[DataFrame, tuple[Feature, ...]]:
    """Add `__ids_<feature>` for each feature whose vocabulary is joined.

    Args:
        frame: raw rows.
        features: to be made.
        dataset: folder with the vocabularies.
        spark: the session.

    Returns:
        The rows, in another order; and the features that got their ids.
    """
    large = large_vocabularies(features, dataset)
    wanted = tuple(f for f in features if f.vocabulary in large)
    if not wanted:
        return frame, ()
    frequent = {f.name: _frequent(frame, f, dataset, spark) for f in wanted if f.vectors is not None}
    tokens = _Tokens(wanted, str(dataset), _HOT_VALUES, frequent)
    fields = [field for number, feature in enumerate(wanted) for field in _fields(number, feature)]
    frame = mapped(frame, frame.columns, tokens, T.StructType([*frame.schema.fields, *fields]))
    for number, feature in enumerate(wanted):
        side = _side(feature, dataset, spark)
        if feature.is_list:
            frame = _joined_lists(frame, feature, _KEY.format(number), side, tokens)
        else:
            ids = joined_ids(feature.name)
            frame = _joined(frame, feature, _KEY.format(number), _KNOWN.format(number), ids, side)
    return frame, wanted


def _side(feature: Feature, dataset: Path, spark: SparkSession) -> DataFrame:
    return spark.read.parquet(spark_path(dataset / str(feature.vocabulary))).select("value", "id")


def _frequent(frame: DataFrame, feature: Feature, dataset: Path, spark: SparkSession) -> Vocabulary:
    """Return the tokens that many rows have, with their ids, whether they have a vector or not."""
    op = chains.id_op(feature)
    assert op is not None
    sample = frame.sample(_SAMPLED_SHARE, seed=3)
    texts = mapped(sample, chains.raw_columns(feature), _Texts(feature), "token string")
    counted = texts.where(F.col("token").isNotNull()).groupBy("token").count()
    counted = counted.where(F.col("count") >= _HOT_SAMPLED).orderBy(F.desc("count"), "token")
    found = [row["token"] for row in counted.limit(_HOT_VECTORS).collect()]
    if not found:
        return EmptyVocabulary(np.empty(0, np.int64), np.empty(0, np.int64), None)
    known = _side(feature, dataset, spark).where(F.col("value").isin(found)).collect()
    ids = dict(zip(found, unseen_ids(op, pa.array(found)).tolist(), strict=True))
    ids |= {row["value"]: row["id"] for row in known}
    return Vocabulary.of(pa.array(list(ids)), np.array(list(ids.values()), np.int64))


@dataclass(frozen=True)
class _Texts:
    """Makes the tokens of a feature, as text."""

    feature: Feature

    def __call__(self, batches: Iterator[RawColumns]) -> Iterator[pa.RecordBatch]:
        for columns in batches:
            texts = _texts(chains.tokens(self.feature, columns))
            yield pa.RecordBatch.from_arrays([texts], ["token"])


def _fields(number: int, feature: Feature) -> list[T.StructField]:
    if feature.is_list:
        return [T.StructField(_KEY.format(number), T.ArrayType(T.StringType()))]
    known = T.StructField(_KNOWN.format(number), T.LongType())
    return [T.StructField(_KEY.format(number), T.StringType()), known]


@dataclass(frozen=True)
class _Tokens:
    """Adds the tokens of some features to the raw columns: of lists their texts, else what `_keys` makes."""

    features: tuple[Feature, ...]
    dataset: str
    hot_values: int
    frequent: Mapping[str, Vocabulary]

    def __call__(self, batches: Iterator[RawColumns]) -> Iterator[pa.RecordBatch]:
        for columns in batches:
            made = dict(columns)
            for number, feature in enumerate(self.features):
                tokens, key = chains.tokens(feature, columns), _KEY.format(number)
                if tokens.offsets is None:
                    made[key], made[_KNOWN.format(number)] = _keys(feature, tokens, self.hot(feature))
                else:
                    made[key] = pa.ListArray.from_arrays(pa.array(tokens.offsets, pa.int32()), _texts(tokens))
            yield pa.RecordBatch.from_arrays(list(made.values()), list(made))

    def hot(self, feature: Feature) -> Vocabulary:
        """Return the most frequent values of a feature."""
        if feature.name in self.frequent:
            return self.frequent[feature.name]
        folders = frozenset((str(f.vocabulary), f.vocabulary_hash) for f in self.features)
        found = read_most_frequent(Path(self.dataset), folders, self.hot_values)
        return found[str(feature.vocabulary)]


def _texts(tokens: Tokens) -> pa.Array:
    return tokens.texts().take(pa.array(tokens.codes, mask=tokens.missing))


def _keys(feature: Feature, tokens: Tokens, hot: Vocabulary) -> tuple[pa.Array, pa.Array]:
    """Return by which text to join each token, and the ids of the others.

    A join brings all rows of a value to one task, so no value that many rows have is joined: of a vocabulary,
    one beyond the most frequent ones had a small share of the fitted rows. In place of the others stand keys
    that match nothing and differ from row to row.
    """
    op = chains.id_op(feature)
    assert op is not None
    known = by_place(op, tokens, hot.ids_of(tokens.values), len(hot.ids))
    cold = pa.array(known == UNKNOWN)
    salts = pa.array([f"{_SALT}{number}" for number in range(len(known))], pa.string())
    return pc.if_else(cold, _texts(tokens), salts), pa.array(known, mask=known == UNKNOWN)


@dataclass(frozen=True)
class _Keys:
    """Adds what `_keys` makes to the values of lists, one a row."""

    feature: Feature
    tokens: _Tokens

    def __call__(self, batches: Iterator[RawColumns]) -> Iterator[pa.RecordBatch]:
        for columns in batches:
            made = _keys(self.feature, Tokens.of(columns["token"]), self.tokens.hot(self.feature))
            yield pa.RecordBatch.from_arrays([*columns.values(), *made], [*columns, "key", "known"])


def _joined(frame: DataFrame, feature: Feature, key: str, known: str, ids: str, side: DataFrame) -> DataFrame:
    """Join one key per row."""
    renamed = side.select(F.col("value").alias("__value"), F.col("id").alias("__id"))
    joined = frame.join(renamed, F.col(key) == F.col("__value"), "left")
    found = F.coalesce(F.col(known), F.col("__id"), _unseen_id(feature, F.col(key)))
    return joined.withColumn(ids, found.cast("bigint")).drop("__value", "__id", key, known)


def _joined_lists(
    frame: DataFrame, feature: Feature, lists: str, side: DataFrame, tokens: _Tokens
) -> DataFrame:
    """Join each distinct list once: lists such as tags or histories repeat a lot."""
    distinct = frame.select(F.col(lists).alias("list")).where(F.size("list") > 0).distinct()
    long = distinct.select("list", F.posexplode("list").alias("place", "token"))
    fields = [T.StructField("key", T.StringType()), T.StructField("known", T.LongType())]
    long = mapped(long, long.columns, _Keys(feature, tokens), T.StructType([*long.schema.fields, *fields]))
    long = _joined(long, feature, "key", "known", "id", side)
    numbered = long.groupBy("list").agg(F.sort_array(F.collect_list(F.struct("place", "id"))).alias("ids"))
    numbered = numbered.select(F.col("list").alias("__list"), F.col("ids")["id"].alias("__ids"))
    # Empty lists match nothing, and must not all come to one task for it.
    salt = F.array(F.concat(F.lit(_SALT), F.monotonically_increasing_id().cast("string")))
    frame = frame.withColumn(lists, F.when(F.size(lists) > 0, F.col(lists)).otherwise(salt))
    joined = frame.join(numbered, F.col(lists) == F.col("__list"), "left")
    empty = F.array().cast("array<bigint>")
    ids = F.coalesce(F.col("__ids"), empty)
    return joined.withColumn(joined_ids(feature.name), ids).drop("__list", "__ids", lists)


def _unseen_id(feature: Feature, token: Column) -> Column:
    op = chains.id_op(feature)
    assert op is not None
    buckets = oov_buckets(op)
    unseen = F.lit(OUT_OF_VOCABULARY_ID).cast("bigint")
    if buckets > 1:
        unseen = unseen + F.pmod(F.xxhash64(token), F.lit(buckets).cast("bigint"))
    return unseen
