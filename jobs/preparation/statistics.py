"""Statistics of a written data set, and the last check that what was written can be trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs.preparation.columns import SPLIT, column
from trainer.errors import DataError
from trainer.schema import (
    LABEL_COLUMN,
    OUT_OF_VOCABULARY_ID,
    PADDING_ID,
    SPLITS,
    Feature,
    FeatureSpec,
    FeatureStatistics,
)

if TYPE_CHECKING:
    from pyspark.sql import Column, SparkSession

Answers = dict[str, dict[str, Any]]


def scan(dataset: Path, spec: FeatureSpec, spark: SparkSession) -> Answers:
    """Read the written parts once and return, by split, what `positives` and `statistics` need.

    Raises:
        DataError: a dense value is not finite, or an id is outside its table.
    """
    folders = [str(dataset / split) for split in SPLITS if any((dataset / split).glob("*.parquet"))]
    if not folders:
        return {}
    rows = spark.read.parquet(*folders)
    rows = rows.withColumn(SPLIT, F.regexp_extract(F.col("_metadata.file_path"), r"/([^/]+)/[^/]+$", 1))
    asked: dict[str, Column] = {"rows": F.count(F.lit(1)), "positives": F.sum(F.col(LABEL_COLUMN))}
    for number, feature in enumerate(spec.features):
        questions = _dense(feature) if feature.kind == "dense" else _ids(feature)
        asked |= {f"{name}_{number}": value for name, value in questions.items()}
    found = rows.groupBy(SPLIT).agg(*[value.alias(name) for name, value in asked.items()]).collect()
    answers = {row[SPLIT]: row.asDict() for row in found}
    for number, feature in enumerate(spec.features):
        _check(feature, number, answers)
    return answers


def statistics(
    spec: FeatureSpec, answers: Answers, missing: Mapping[str, int]
) -> dict[str, FeatureStatistics]:
    """Return the manifest's statistics by feature.

    Args:
        spec: the fitted spec.
        answers: of `scan`.
        missing: missing raw values among the training rows, for features whose prepared column hides them.
    """
    train = answers.get("train") or next(iter(answers.values()), None)
    if train is None:
        return {feature.name: FeatureStatistics() for feature in spec.features}
    others = [row for split, row in answers.items() if split != "train"]
    result: dict[str, FeatureStatistics] = {}
    for number, feature in enumerate(spec.features):
        nulls = missing.get(feature.name, train.get(f"empty_{number}") or 0)
        share = nulls / train["rows"]
        if feature.kind == "dense":
            numbers = {name: train[f"{name}_{number}"] for name in ("mean", "std", "min", "max")}
            result[feature.name] = FeatureStatistics(null_share=share, **numbers)
            continue
        vocabulary_size = (feature.num_embeddings or 0) - 2
        result[feature.name] = FeatureStatistics(
            ids=vocabulary_size if feature.vocabulary else train.get(f"distinct_{number}"),
            mean_length=(train[f"ids_{number}"] or 0) / train["rows"] if feature.is_list else 1.0,
            null_share=share,
            oov_share=_oov_share(feature, number, others),
            train_oov_share=_oov_share(feature, number, [answers["train"]]) if "train" in answers else None,
        )
    return result


def _oov_share(feature: Feature, number: int, rows: Sequence[Mapping[str, Any]]) -> float:
    ids = sum(row[f"ids_{number}"] or 0 for row in rows)
    unknown = sum(row[f"oov_{number}"] or 0 for row in rows) if feature.vocabulary else 0
    return unknown / ids if ids else 0.0


def _dense(feature: Feature) -> dict[str, Column]:
    x = column(feature.name).cast("double")
    return {
        "mean": F.avg(x),
        "std": F.stddev_pop(x),
        "min": F.min(x),
        "max": F.max(x),
        "bad": F.count(F.when(x.isNull() | F.isnan(x) | (F.abs(x) == F.lit(math.inf)), 1)),
    }


def _ids(feature: Feature) -> dict[str, Column]:
    x = column(feature.name)
    limit = F.lit(feature.num_embeddings)
    if feature.is_list:
        unseen = F.size(F.filter(x, lambda t: t == OUT_OF_VOCABULARY_ID))
        return {
            "ids": F.sum(F.size(x)),
            "empty": F.count(F.when(F.size(x) == 0, 1)),
            "oov": F.sum(unseen),
            "bad": F.count(F.when(F.exists(x, lambda t: t.isNull() | (t < 0) | (t >= limit)), 1)),
        }
    missing = x == PADDING_ID
    questions = {
        "ids": F.count(F.when(~missing, 1)),
        "empty": F.count(F.when(missing, 1)),
        "oov": F.count(F.when(x == OUT_OF_VOCABULARY_ID, 1)),
        "bad": F.count(F.when(x.isNull() | (x < 0) | (x >= limit), 1)),
    }
    if feature.vocabulary is None:
        questions["distinct"] = F.approx_count_distinct(F.when(~missing, x), 0.01)
    return questions


def _check(feature: Feature, number: int, answers: Answers) -> None:
    bad = sum(row[f"bad_{number}"] for row in answers.values())
    if bad and feature.kind == "dense":
        raise DataError(
            f"dense feature {feature.name!r} has {bad} value(s) that are missing or not finite after its ops",
            where=f"column {feature.column!r}",
            fixes=["add `fill: 0`", "add `clip: {min: ..., max: ...}`"],
        )
    if bad:
        raise DataError(
            f"feature {feature.name!r} has {bad} row(s) with ids outside its table",
            where=f"column {feature.column!r}",
            allowed=f"0 to {(feature.num_embeddings or 0) - 1}",
        )
