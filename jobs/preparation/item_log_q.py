"""Writes how likely each item is to be in a batch, for models that take its other items as negatives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.labels import label_value
from jobs.preparation.spark_paths import spark_path
from jobs.preparation.transform import with_features
from trainer.config import RunConfig
from trainer.config.negatives import LOG_Q_FOLDER
from trainer.schema import KEEP_PREFIX, FeatureSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_SHARE = "__share"


def write_item_log_q(
    rows: DataFrame,
    run: RunConfig,
    spec: FeatureSpec,
    dataset: Path,
    spark: SparkSession,
    before: Path | None = None,
) -> None:
    """Write `item_log_q/`: Parquet with `item`, `id`, `count` and `log_q`, most frequent item first.

    `count` is the item's positives among the training rows, `log_q` the logarithm of their share. Items of
    one id (those out of vocabulary, or of one hash bucket) have the `log_q` of all of them together, as a
    model cannot tell them apart.

    Args:
        rows: rows of the source with `SPLIT`.
        run: names item and label.
        spec: whose first feature of one id made from the item column gives the `id`; null without one.
        dataset: folder of the data set under construction.
        spark: the session.
        before: data set whose counts are added.
    """
    assert run.data.negatives is not None
    name = run.data.negatives.item
    positive = rows.where((F.col(C.SPLIT) == "train") & (label_value(rows, run.data.first_task) == 1))
    token = C.token(positive, name)
    counted = (
        positive.where(token.isNotNull()).groupBy(token.alias(name)).agg(F.count(F.lit(1)).alias("count"))
    )
    if before is not None:
        old = spark.read.parquet(spark_path(before / LOG_Q_FOLDER)).select(F.col("item").alias(name), "count")
        counted = counted.unionByName(old).groupBy(C.column(name)).agg(F.sum("count").alias("count"))
    feature = next((f for f in spec.sparse if f.column == name and not f.is_list), None)
    if feature is None:
        found = counted.select(C.column(name).alias("item"), F.lit(None).cast("bigint").alias("id"), "count")
    else:
        made = with_features(counted, [feature], dataset, spark, keep=[name, "count"])
        ids, item = (C.column(column) for column in (feature.name, KEEP_PREFIX + name))
        found = made.select(
            item.alias("item"), ids.alias("id"), C.column(f"{KEEP_PREFIX}count").alias("count")
        )
    everything = counted.agg(F.sum("count").alias("all"))
    same = Window.partitionBy(F.coalesce(F.col("id").cast("string"), F.col("item")))
    log_q = F.log(F.sum("count").over(same) / F.col("all")).cast("float")
    found = found.crossJoin(F.broadcast(everything)).select("item", "id", "count", log_q.alias("log_q"))
    found.orderBy(F.col("count").desc(), "item").coalesce(1).write.option("compression", "zstd").parquet(
        spark_path(dataset / LOG_Q_FOLDER)
    )
