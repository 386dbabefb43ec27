"""Writes the features of each item, taken from the training rows that hold it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.item_log_q import write_item_log_q
from jobs.preparation.spark_paths import spark_path
from trainer.config import RunConfig
from trainer.config.data import CatalogueConfig
from trainer.config.messages import did_you_mean
from trainer.errors import ConfigError
from trainer.schema import CATALOGUE_FOLDER, PADDING_ID, FeatureSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def check_catalogue(catalogue: CatalogueConfig | None, spec: FeatureSpec) -> None:
    """Refuse features that a catalogue, where one is asked for, cannot hold.

    Raises:
        ConfigError: the item is no feature of one id, or one of the others is no sparse or sequence feature.
    """
    if catalogue is None:
        return
    single = [f.name for f in spec.looked_up if not f.is_list]
    others = [f.name for f in spec.looked_up if f.name != catalogue.item]
    named = [("item", catalogue.item, single), *(("features", name, others) for name in catalogue.features)]
    for key, name, allowed in named:
        if name not in allowed:
            near = did_you_mean(name, allowed)
            what = (
                "no feature of one id" if key == "item" else "no sparse or sequence feature besides the item"
            )
            raise ConfigError(
                what,
                where=f"data.catalogue.{key}",
                got=name,
                allowed=allowed,
                fixes=[near] if near else [],
            )


def write_items(
    rows: DataFrame, run: RunConfig, spec: FeatureSpec, dataset: Path, spark: SparkSession
) -> None:
    """Write what is asked for of items: `item_log_q/` and the catalogue.

    Args:
        rows: of the source, with `SPLIT`.
        run: says what.
        spec: fitted.
        dataset: folder of the data set under construction, whose training rows are written.
        spark: the session.
    """
    if run.data.negatives is not None and run.data.negatives.in_batch.log_q:
        write_item_log_q(rows, run, spec, dataset, spark)
    write_catalogue(run.data.catalogue, dataset, spark)


def write_catalogue(catalogue: CatalogueConfig | None, dataset: Path, spark: SparkSession) -> None:
    """Write `items/`, where it is asked for: `id` and the ids of each feature of the items of training rows.

    Of an item whose rows differ the smallest values count: the result depends on the set of rows alone.

    Args:
        catalogue: names the features; None for no catalogue.
        dataset: folder of the data set under construction, whose training rows are written.
        spark: the session.
    """
    if catalogue is None:
        return
    rows = spark.read.parquet(spark_path(dataset / "train"))
    features = F.struct(*[C.column(name) for name in catalogue.features])
    items = rows.where(C.column(catalogue.item) != PADDING_ID)
    found = items.groupBy(C.column(catalogue.item).alias("id")).agg(F.min(features).alias("features"))
    chosen = [F.col("features").getField(name).alias(name) for name in catalogue.features]
    found.select("id", *chosen).orderBy("id").write.mode("overwrite").option("compression", "zstd").parquet(
        spark_path(dataset / CATALOGUE_FOLDER)
    )
