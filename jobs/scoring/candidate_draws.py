"""Pairs of users and items to be scored: all of them, or some items of each user, drawn on the executors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.preparation import columns as C
from jobs.preparation.negative_sampling import ITEM, PLACE, POSITIVE, USER, Drawing, Items, Sampler
from jobs.preparation.part_numbers import numbered_parts
from jobs.preparation.rows import map_in_arrow
from jobs.preparation.spark_paths import spark_path

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_ASKED = "asked"
_EXCLUDED = "train"  # what a drawing with `exclude: train` leaves out


def all_pairs(users: DataFrame, items: DataFrame, excluded: DataFrame) -> DataFrame:
    """Return each user with each item, without the excluded pairs.

    Args:
        users: one column.
        items: one column.
        excluded: both columns.
    """
    return users.crossJoin(items).join(excluded, excluded.columns, "left_anti")


def drawn_pairs(
    users: DataFrame,
    items: DataFrame,
    excluded: DataFrame,
    count: int,
    *,
    seed: int,
    scratch: Path,
    spark: SparkSession,
) -> DataFrame:
    """Return each user with so many different items, each as likely, without the excluded pairs.

    A user with fewer items left gets all of them. The draw depends on the seed, the user and the items alone.

    Args:
        users: one column, without nulls.
        items: one column, without nulls, none twice.
        excluded: both columns.
        count: items per user.
        seed: of the draws.
        scratch: folder to make, for the numbers of the items.
        spark: the session.
    """
    user, item = users.columns[0], items.columns[0]
    items.orderBy(C.column(item)).write.parquet(spark_path(scratch))
    numbered = numbered_parts(scratch, spark, ITEM)
    marks = [F.lit(True).alias(POSITIVE), C.column(user)]
    asked = users.select(
        C.token(users, user).alias(USER),
        F.lit(0).cast("bigint").alias(ITEM),
        F.lit(_ASKED).alias(C.SPLIT),
        F.xxhash64(C.token(users, user)).alias(C.ORDER),
        *marks,
    )
    met = excluded.join(users, user, "left_semi").join(numbered, item)
    left_out = met.select(
        C.token(met, user).alias(USER),
        F.col(ITEM),
        F.lit(_EXCLUDED).alias(C.SPLIT),
        F.lit(0).cast("bigint").alias(C.ORDER),
        *marks,
    )
    drawing = Drawing(Items(numbered.count()), count, exclude="train")
    sampler = Sampler({_ASKED: drawing}, seed, split=C.SPLIT, order=C.ORDER, carried=[user])
    schema = T.StructType(
        [users.schema[user], T.StructField(ITEM, T.LongType()), T.StructField(PLACE, T.IntegerType())]
    )
    rows = asked.unionByName(left_out).repartition(USER).sortWithinPartitions(USER, C.ORDER)
    drawn = map_in_arrow(rows, sampler, schema)
    return drawn.join(numbered, ITEM).select(C.column(user), C.column(item))
