"""Ids of vocabularies that no process could hold: the rows are joined with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.preparation.rows import RawColumns, mapped
from trainer.features import chains
from trainer.features.ids import first_id, oov_buckets
from trainer.features.row_encoder import joined_ids
from trainer.features.values import Tokens
from trainer.schema import OUT_OF_VOCABULARY_ID, PADDING_ID, Feature

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

# What the vocabularies may take in each process of an executor; larger ones are joined. On top of a value's
# text, which the footers tell, stand its hash and its id.
HELD_BYTES = 512 * 2**20
_BYTES_PER_VALUE = 20
_TOKENS = "__tokens_{}"


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
    fields = [
        T.StructField(_TOKENS.format(n), T.ArrayType(T.StringType()) if f.is_list else T.StringType())
        for n, f in enumerate(wanted)
    ]
    frame = mapped(frame, frame.columns, _Tokens(wanted), T.StructType([*frame.schema.fields, *fields]))
    for number, feature in enumerate(wanted):
        side = spark.read.parquet(str(dataset / str(feature.vocabulary))).select("value", "id")
        tokens, ids = _TOKENS.format(number), joined_ids(feature.name)
        join = _joined_lists if feature.is_list else _joined
        frame = join(frame, feature, tokens, ids, side).drop(tokens)
    return frame, wanted


@dataclass(frozen=True)
class _Tokens:
    """Adds the tokens of some features to the raw columns."""

    features: tuple[Feature, ...]

    def __call__(self, batches: Iterator[RawColumns]) -> Iterator[pa.RecordBatch]:
        for columns in batches:
            made = [_texts(chains.tokens(feature, columns)) for feature in self.features]
            names = [_TOKENS.format(number) for number in range(len(made))]
            yield pa.RecordBatch.from_arrays([*columns.values(), *made], [*columns, *names])


def _texts(tokens: Tokens) -> pa.Array:
    texts = tokens.texts().take(pa.array(tokens.codes, mask=tokens.missing))
    if tokens.offsets is None:
        return texts
    return pa.ListArray.from_arrays(pa.array(tokens.offsets, pa.int32()), texts)


def _joined(frame: DataFrame, feature: Feature, tokens: str, ids: str, side: DataFrame) -> DataFrame:
    """Join one token per row; Spark splits the rows of a frequent token over several tasks by itself."""
    renamed = side.select(F.col("value").alias("__value"), F.col("id").alias("__id"))
    joined = frame.join(renamed, F.col(tokens) == F.col("__value"), "left")
    return joined.withColumn(ids, _id(feature, F.col(tokens), F.col("__id"))).drop("__value", "__id")


def _joined_lists(frame: DataFrame, feature: Feature, tokens: str, ids: str, side: DataFrame) -> DataFrame:
    """Join each distinct list once: lists such as tags or histories repeat a lot."""
    distinct = frame.select(F.col(tokens).alias("list")).where(F.size("list") > 0).distinct()
    long = distinct.select("list", F.posexplode("list").alias("place", "token"))
    long = _joined(long, feature, "token", "id", side)
    numbered = long.groupBy("list").agg(F.sort_array(F.collect_list(F.struct("place", "id"))).alias("ids"))
    numbered = numbered.select(F.col("list").alias("__list"), F.col("ids")["id"].alias("__ids"))
    joined = frame.join(numbered, F.col(tokens) == F.col("__list"), "left")
    empty = F.array().cast("array<bigint>")
    return joined.withColumn(ids, F.coalesce(F.col("__ids"), empty)).drop("__list", "__ids")


def _id(feature: Feature, token: Column, found: Column) -> Column:
    op = chains.id_op(feature)
    assert op is not None
    buckets = oov_buckets(op)
    unseen = F.lit(OUT_OF_VOCABULARY_ID).cast("bigint")
    if buckets > 1:
        unseen = unseen + F.pmod(F.xxhash64(token), F.lit(buckets).cast("bigint"))
    # A vocabulary that is joined has values, so the most frequent one exists.
    missing = first_id(op) if op.params.get("missing") == "most_frequent" else PADDING_ID
    return F.when(token.isNull(), F.lit(missing)).otherwise(F.coalesce(found, unseen)).cast("bigint")
