"""Target encodings: the mean label of an id over the training rows, for those themselves out of fold."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.ordered import id_key
from jobs.preparation.planned import PlannedFeature
from jobs.preparation.spark_paths import spark_path
from jobs.preparation.vocabulary import plain_folders
from trainer.schema import Feature, FittedOp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyspark.sql import Column, DataFrame, SparkSession

ENCODING_FOLDER = "encoding"
_SCHEMA = "key string, count bigint, sum double"
_KEY = "__encoded"
_FOUND = ("__count", "__sum")


def fit_encodings(
    rows: DataFrame, features: Sequence[PlannedFeature], label: Column, dataset: Path, spark: SparkSession
) -> dict[str, FittedOp]:
    """Write `encoding/<feature>/` (count and label sum of each id over the training rows).

    Args:
        rows: with `SPLIT` and `ORDER`.
        features: the target encodings.
        label: 0 or 1.
        dataset: folder of the data set under construction.
        spark: the session.

    Returns:
        By feature, the op with its `prior`, `fold_priors`, `table` and `digest`.
    """
    train = rows.where((F.col(C.SPLIT) == "train") & label.isNotNull())
    folders = plain_folders([f.name for f in features], ENCODING_FOLDER)
    priors = _priors(train, label, features) if features else {}
    fitted: dict[str, FittedOp] = {}
    for feature in features:
        assert feature.derived is not None
        params, folder = feature.derived.params, folders[feature.name]
        table = train.groupBy(id_key(rows, params["by"]).alias("key"))
        counted = table.agg(F.count(F.lit(1)).alias("count"), F.sum(label.cast("double")).alias("sum"))
        _write(counted.where(F.col("key").isNotNull()), dataset / folder)
        digest = _digest(spark.read.schema(_SCHEMA).parquet(spark_path(dataset / folder)))
        fitted[feature.name] = FittedOp(
            name=feature.derived.name,
            params={**params, **priors[feature.name], "table": folder, "digest": digest},
        )
    return fitted


def grow_encodings(
    train: DataFrame, features: Sequence[PlannedFeature], old: Path, dataset: Path, spark: SparkSession
) -> dict[str, FittedOp]:
    """Add the counts and label sums of new training rows to those of the data set; priors stay as they are.

    Args:
        train: the new training rows, with `LABEL`.
        features: the target encodings, with the tables they were made by.
        old: folder of the data set so far.
        dataset: folder of the data set under construction.
        spark: the session.

    Returns:
        By feature, the op with its new `digest`.
    """
    grown: dict[str, FittedOp] = {}
    for feature in features:
        assert feature.derived is not None
        params = feature.derived.params
        place = dataset / params["table"]
        known = spark.read.schema(_SCHEMA).parquet(spark_path(old / params["table"]))
        ones = F.lit(1).cast("bigint").alias("count")
        new = train.select(
            id_key(train, params["by"]).alias("key"), ones, F.col(C.LABEL).cast("double").alias("sum")
        )
        rows = known.unionByName(new.where(F.col("key").isNotNull())).groupBy("key")
        _write(rows.agg(F.sum("count").alias("count"), F.sum("sum").alias("sum")), place)
        digest = _digest(spark.read.schema(_SCHEMA).parquet(spark_path(place)))
        grown[feature.name] = FittedOp(name=feature.derived.name, params={**params, "digest": digest})
    return grown


def with_encoding(
    rows: DataFrame,
    feature: PlannedFeature | Feature,
    label: Column | None,
    dataset: str | Path,
    spark: SparkSession,
    *,
    fitted: bool = False,
) -> DataFrame:
    """Add the encoding of a feature's ids.

    Rows with `SPLIT` are those of `prepare`: the training rows among them get the mean over the other folds.
    All others get the mean over all training rows, rows to be scored and those of a new day (`fitted`) from
    the stored table.
    """
    assert feature.derived is not None
    params = feature.derived.params
    rows = rows.withColumn(_KEY, id_key(rows, params["by"]))
    count, total, prior = *map(F.col, _FOUND), F.lit(params["prior"]).cast("double")
    if C.SPLIT in rows.columns and not fitted:
        assert label is not None
        rows = _joined(rows, _with_folds(rows, label, params))
        # Beyond the training rows there is no fold to leave out.
        fold = F.when(F.col(C.SPLIT) == "train", _fold(params))
        count = count - F.coalesce(F.col("__counts")[fold], F.lit(0))
        total = total - F.coalesce(F.col("__sums")[fold], F.lit(0.0))
        priors = F.array(*[F.lit(x).cast("double") for x in params["fold_priors"]])
        prior = F.when(fold.isNotNull(), priors[fold]).otherwise(prior)
    else:
        table = spark.read.schema(_SCHEMA).parquet(spark_path(Path(dataset) / params["table"]))
        rows = _joined(rows, table.select(F.col("key").alias("key"), "count", "sum"))
    smoothing = params["smoothing"]
    mean = (total + smoothing * prior) / (count + smoothing)
    rows = rows.withColumn(feature.column, F.when(count > 0, mean).otherwise(prior))
    return rows.drop(_KEY, *_FOUND, "__counts", "__sums")


def _fold(params: Mapping[str, Any]) -> Column:
    """Return the fold of a row, from 0; equal rows share one, so that none sees the label of its twin."""
    return F.pmod(F.xxhash64(F.lit(params["seed"]), F.col(C.ORDER)), F.lit(params["folds"])).cast("int")


def _with_folds(rows: DataFrame, label: Column, params: Mapping[str, Any]) -> DataFrame:
    """Return `key`, `count`, `sum` of the training rows, and the arrays `__counts` and `__sums` by fold."""
    train = rows.where((F.col(C.SPLIT) == "train") & label.isNotNull() & F.col(_KEY).isNotNull())
    value, fold = label.cast("double"), _fold(params)
    folds = range(params["folds"])
    counts = [F.count(F.when(fold == n, 1)) for n in folds]
    sums = [F.coalesce(F.sum(F.when(fold == n, value)), F.lit(0.0)) for n in folds]
    return train.groupBy(F.col(_KEY).alias("key")).agg(
        F.count(F.lit(1)).alias("count"),
        F.sum(value).alias("sum"),
        F.array(*counts).alias("__counts"),
        F.array(*sums).alias("__sums"),
    )


def _joined(rows: DataFrame, table: DataFrame) -> DataFrame:
    renamed = table.withColumnsRenamed({"key": "__found_key", "count": _FOUND[0], "sum": _FOUND[1]})
    return rows.join(renamed, F.col(_KEY) == F.col("__found_key"), "left").drop("__found_key")


def _priors(train: DataFrame, label: Column, features: Sequence[PlannedFeature]) -> dict[str, dict[str, Any]]:
    """Return, by feature, the mean label of the training rows, and that of all but each fold.

    The mean is None where no row is left.
    """
    value, asked = label.cast("double"), [F.count(F.lit(1)), F.sum(label.cast("double"))]
    params = {f.name: f.derived.params for f in features if f.derived is not None}
    for own in params.values():
        for fold in range(own["folds"]):
            outside = _fold(own) != fold
            asked += [F.count(F.when(outside, 1)), F.sum(F.when(outside, value))]
    found = train.agg(*[x.alias(str(n)) for n, x in enumerate(asked)]).first()
    assert found is not None
    means = [total / count if count else None for count, total in zip(found[::2], found[1::2], strict=True)]
    priors, start = {}, 1
    for name, own in params.items():
        end = start + own["folds"]
        priors[name] = {"prior": means[0], "fold_priors": means[start:end]}
        start = end
    return priors


def _write(table: DataFrame, folder: Path) -> None:
    raw = folder.with_name(f"_{folder.name}")
    table.write.option("compression", "zstd").parquet(spark_path(raw))
    folder.mkdir(parents=True)
    for number, part in enumerate(sorted(raw.glob("*.parquet"))):
        part.replace(folder / f"part-{number:05d}.parquet")
    shutil.rmtree(raw)


def _digest(table: DataFrame) -> str:
    """Return a digest of the table as a set of rows."""
    found = table.agg(
        F.expr("bit_xor(xxhash64(key, count, sum))"), F.expr("bit_xor(xxhash64(sum, key, count, 7))")
    ).first()
    assert found is not None
    return "".join(f"{(part or 0) & ((1 << 64) - 1):016x}" for part in found)
