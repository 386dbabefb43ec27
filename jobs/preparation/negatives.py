"""Adds rows of items that a user did not meet, drawn on the executors or taken from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.dataset as pads
from numpy.typing import NDArray
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.preparation import columns as C
from jobs.preparation.labels import label_value
from jobs.preparation.negative_files import VALUE, listed_negatives
from jobs.preparation.negative_sampling import ITEM, PLACE, POSITIVE, USER, Drawing, Items, Sampler
from jobs.preparation.part_numbers import numbered_parts
from jobs.preparation.rows import map_in_arrow
from jobs.preparation.sources import require_columns, with_side_tables
from jobs.preparation.spark_paths import spark_path
from trainer.config import NegativesConfig, RunConfig, SamplingConfig
from trainer.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# The popularity of so many items, 8 bytes each, goes to every Python worker; `uniform` needs none.
LARGEST_CATALOGUE = 20_000_000
EVALUATION = ("valid", "test")
# In `SPLIT`: rows whose positives count for popularity and for `exclude: train`.
_TRAINED = ("train", C.BEFORE)
_FIELDS = "__fields"
_TOKEN = "__token"  # noqa: S105


def adds_rows(config: NegativesConfig | None) -> bool:
    """Return whether the config asks for rows of negatives."""
    return config is not None and (config.train is not None or config.evaluation is not None)


def with_negatives(
    rows: DataFrame,
    run: RunConfig,
    own: list[str],
    spark: SparkSession,
    scratch: Path,
    *,
    new_items: bool = True,
) -> tuple[DataFrame, list[str]]:
    """Add negatives to the rows, with the columns `NEGATIVE` and `GROUP`.

    A negative is its positive with another item: the item's columns come from the side tables again, every
    other column of the source stays; `label_value` makes its label 0. `GROUP` is the hash of the
    positive, null for rows of label 0 that the source has itself. In valid and test the rows of a group are
    neighbours. Rows of earlier days get none; all their positives count as those of train.

    Args:
        rows: joined raw rows with `SPLIT`, `HASH`, `ORDER` and `BAD_LINE`, and `OLD` if days are added.
        run: names users, items, label and side tables.
        own: columns of the source itself.
        spark: the session.
        scratch: folder to make, for the table of items; of no use once the rows have been written.
        new_items: whether rows that are not of earlier days count for the items to draw and their popularity.

    Returns:
        The rows, and remarks for the report.

    Raises:
        ConfigError: a column is missing or a list; too many items for `popularity`.
        DataError: a file of negatives cannot be used, or there is no positive to count popularity by.
    """
    config = run.data.negatives
    assert config is not None
    _check_columns(rows, config, own)
    label = label_value(rows, run.data.first_task)
    whole = rows.withColumns(
        {
            USER: C.token(rows, config.user),
            _TOKEN: C.token(rows, config.item),
            POSITIVE: F.coalesce(label == 1, F.lit(False)),
        }
    )
    known = whole.where(F.col(USER).isNotNull() & F.col(_TOKEN).isNotNull() & F.col(C.BAD_LINE).isNull())
    items = _items(known if new_items else known.where(F.col(C.OLD)), config, spark, scratch)
    wanted = {"train": config.train, **dict.fromkeys(EVALUATION, config.evaluation)}
    drawn = {split: s for split, s in wanted.items() if s is not None and s.file is None}
    carried = [*own, C.SPLIT, C.HASH, C.ORDER]
    found: list[DataFrame] = []
    remarks: list[str] = []
    if drawn:
        found.append(_sampled(known, config, drawn, items, carried, scratch))
    for name, sampling, splits in (
        ("train", config.train, ("train",)),
        ("evaluation", config.evaluation, EVALUATION),
    ):
        if sampling is not None and sampling.file is not None:
            positives = known.where(F.col(POSITIVE) & F.col(C.SPLIT).isin(*splits))
            listed, remark = listed_negatives(
                positives, run, sampling, _TOKEN, f"data.negatives.{name}", spark
            )
            listed = listed.join(items.select(_TOKEN, _FIELDS), _TOKEN, "left")
            found.append(listed.select(*map(C.column, carried), _TOKEN, VALUE, _FIELDS, PLACE))
            remarks += remark
    made = found[0] if len(found) == 1 else found[0].unionByName(found[1])
    made = _as_rows(made, run, own, spark)
    positives = whole.drop(USER, _TOKEN).withColumns(
        {C.NEGATIVE: F.lit(False), C.GROUP: F.when(F.col(POSITIVE), F.col(C.ORDER))}
    )
    if C.OLD in rows.columns:
        made = made.withColumn(C.OLD, F.lit(False))
    return positives.drop(POSITIVE).unionByName(made, allowMissingColumns=True), remarks


def _check_columns(rows: DataFrame, config: NegativesConfig, own: list[str]) -> None:
    where = "data.negatives"
    require_columns([config.user, config.item, *config.item_columns], own, where)
    for name in (config.user, config.item):
        if C.is_list(rows, name):
            raise ConfigError(f"column {name!r} holds lists, negatives need one value per row", where=where)


def _items(known: DataFrame, config: NegativesConfig, spark: SparkSession, scratch: Path) -> DataFrame:
    """Write the table of items in the order of their tokens: number, a raw value, positives, columns.

    The number is the place in that order; a window without partitions would bring all items to one task.
    """
    fields = F.struct(*[C.column(name).alias(f"_{n}") for n, name in enumerate(config.item_columns)])
    counted = F.col(POSITIVE) & F.col(C.SPLIT).isin(*_TRAINED)
    items = known.groupBy(_TOKEN).agg(
        F.min(C.column(config.item)).alias(VALUE),
        F.count(F.when(counted, 1)).alias("count"),
        (F.min(fields) if config.item_columns else F.first(F.lit(0))).alias(_FIELDS),
    )
    items.orderBy(_TOKEN).write.parquet(spark_path(scratch))
    return numbered_parts(scratch, spark, ITEM)


def _sampled(
    known: DataFrame,
    config: NegativesConfig,
    drawn: dict[str, SamplingConfig],
    items: DataFrame,
    carried: list[str],
    scratch: Path,
) -> DataFrame:
    """Return the carried columns of the positives with the items drawn for them."""
    powers = {None if s.distribution == "uniform" else s.alpha for s in drawn.values()}
    weighed = {alpha: _weighed(scratch, alpha) for alpha in powers}
    drawings = {
        split: Drawing(
            weighed[None if s.distribution == "uniform" else s.alpha],
            s.per_positive or 0,
            _uniform_share(s),
            s.exclude,
            every_row=split == "train",
        )
        for split, s in drawn.items()
    }
    sampler = Sampler(drawings, config.seed, split=C.SPLIT, trained=_TRAINED, order=C.ORDER, carried=carried)
    # Where new items are not drawn, rows with one have no number.
    numbered = known.join(items.select(_TOKEN, ITEM), _TOKEN, "left")
    number = F.coalesce(F.col(ITEM), F.lit(-1).cast("bigint")).alias(ITEM)
    asked = numbered.select(*map(C.column, carried), USER, number, POSITIVE)
    kinds = [known.schema[name] for name in carried]
    schema = T.StructType([*kinds, T.StructField(ITEM, T.LongType()), T.StructField(PLACE, T.IntegerType())])
    in_order = asked.repartition(USER).sortWithinPartitions(USER, C.ORDER, C.HASH)
    made = map_in_arrow(in_order, sampler, schema).join(items.select(ITEM, _TOKEN, VALUE, _FIELDS), ITEM)
    return made.select(*map(C.column, carried), _TOKEN, VALUE, _FIELDS, PLACE)


def _uniform_share(sampling: SamplingConfig) -> float:
    return {"uniform": 1.0, "popularity": 0.0, "mixed": sampling.uniform_share}[sampling.distribution]


def _weighed(scratch: Path, alpha: float | None) -> Items:
    """Return the items with their summed popularity, or their number alone."""
    table = pads.dataset(sorted(map(str, scratch.glob("part-*.parquet"))), format="parquet")
    size = table.count_rows()
    if size == 0:
        raise DataError("no row has both a user and an item", where="data.negatives")
    if alpha is None:
        return Items(size)
    if size > LARGEST_CATALOGUE:
        raise ConfigError(
            f"there are {size:,} items, more than `popularity` can weigh",
            where="data.negatives",
            allowed=f"up to {LARGEST_CATALOGUE:,} items",
            fixes=["distribution: uniform", "in_batch: {log_q: true} and no `train` negatives"],
        )
    count_N: NDArray[np.int64] = table.to_table(columns=["count"])["count"].to_numpy()
    weight_N = np.where(count_N > 0, np.power(count_N.astype(np.float64), alpha), 0.0)
    if not weight_N.any():
        raise DataError("no training row has label 1, so no item has a popularity", where="data.negatives")
    total_N = np.cumsum(weight_N)
    return Items(size, total_N / total_N[-1])


def _as_rows(made: DataFrame, run: RunConfig, own: list[str], spark: SparkSession) -> DataFrame:
    """Put the item into the positive's row, join the side tables, and set the hashes."""
    config = run.data.negatives
    assert config is not None
    hashed = F.xxhash64(F.lit(config.seed), F.lit("negative"), C.ORDER, C.HASH, _TOKEN, PLACE)
    changed = {config.item: F.col(VALUE)}
    changed |= {name: F.col(f"{_FIELDS}._{n}") for n, name in enumerate(config.item_columns)}
    order = F.when(F.col(C.SPLIT) == "train", F.xxhash64(F.lit("order"), hashed)).otherwise(F.col(C.ORDER))
    frame = made.select(
        *[changed.get(name, C.column(name)).alias(name) for name in own],
        C.SPLIT,
        hashed.alias(C.HASH),
        order.alias(C.ORDER),
        F.col(C.ORDER).alias(C.GROUP),
    )
    joined = with_side_tables(frame, run, spark, check=False)
    return joined.withColumns({C.NEGATIVE: F.lit(True), C.BAD_LINE: F.lit(None).cast("string")})
