"""Fits the feature spec on the training rows, in as few passes as the ops need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.checks import Survey
from jobs.preparation.feature_ops import feature_ops, statistics_of
from jobs.preparation.planned import PlannedFeature
from jobs.preparation.splits import hash_share, sample_share
from jobs.preparation.transform import tokens, with_dense
from jobs.preparation.vocabulary import FittedVocabulary, VocabularyColumn, fit_vocabularies
from trainer.config import RunConfig
from trainer.schema import FIRST_VOCABULARY_ID, Feature, FeatureSpec, FittedOp

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

# Sums of floats depend in their last digits on the order of the rows. Rounding to this many digits of the
# standard deviation (float32 holds seven) makes the spec the same for every number of partitions.
_DIGITS = 7


def fit_spec(
    rows: DataFrame,
    run: RunConfig,
    features: Sequence[PlannedFeature],
    counted: Survey,
    dataset: Path,
    spark: SparkSession,
) -> FeatureSpec:
    """Fit every op on the training rows and write the vocabularies.

    Args:
        rows: raw rows with `SPLIT`.
        run: names label and weight.
        features: planned features.
        counted: rows of the training split, largest ids.
        dataset: folder of the data set under construction.
        spark: the session.
    """
    train = rows.where(F.col(C.SPLIT) == "train")
    dense = _fit_dense(train, [f for f in features if f.kind == "dense"], counted.rows["train"])
    vocabularies = fit_vocabularies(
        train, [_wanted(train, f) for f in features if f.owns_vocabulary], dataset, spark
    )
    fitted = tuple(
        Feature(name=f.name, kind="dense", column=f.column, ops=dense[f.name])
        if f.kind == "dense"
        else _id_feature(f, features, counted, vocabularies)
        for f in features
    )
    label = FittedOp(name="label", params=run.data.label.model_dump())
    return FeatureSpec(features=fitted, label=label, weight=run.data.weight)


def _wanted(train: DataFrame, feature: PlannedFeature) -> VocabularyColumn:
    assert feature.id_op is not None
    x, listed = tokens(train, feature.column, feature.ops)
    params = feature.id_op.params
    return VocabularyColumn(feature.name, x, listed, params["min_count"], params["max_size"])


def _id_feature(
    feature: PlannedFeature,
    features: Sequence[PlannedFeature],
    counted: Survey,
    vocabularies: Mapping[str, FittedVocabulary],
) -> Feature:
    vocabulary = vocabularies.get(feature.table)
    if vocabulary is not None:
        rows = FIRST_VOCABULARY_ID + vocabulary.size
    elif feature.id_op is not None:
        rows = feature.id_op.params["num_buckets"] + 1
    else:
        rows = 1 + max(
            counted.largest_id[f.name] for f in features if f.kind != "dense" and f.table == feature.table
        )
    return Feature(
        name=feature.name,
        kind=feature.kind,
        column=feature.column,
        ops=feature.ops,
        is_list=feature.is_list,
        table=feature.table,
        num_embeddings=rows,
        vocabulary=vocabulary.folder if vocabulary else None,
        vocabulary_hash=vocabulary.digest if vocabulary else None,
    )


def _fit_dense(
    train: DataFrame, features: Sequence[PlannedFeature], count: int
) -> dict[str, tuple[FittedOp, ...]]:
    """Fit op after op; one pass fits the next unfitted op of every feature at once."""
    done: dict[str, tuple[FittedOp, ...]] = {f.name: () for f in features}
    while True:
        waiting: list[tuple[PlannedFeature, FittedOp]] = []
        for feature in features:
            for op in feature.ops[len(done[feature.name]) :]:
                if statistics_of(op):
                    waiting.append((feature, op))
                    break
                done[feature.name] += (op,)
        if not waiting:
            return done
        chains = {f"__fit_{n}": (C.number(train, f.column), done[f.name]) for n, (f, _) in enumerate(waiting)}
        wanted = {name: statistics_of(op) for name, (_, op) in zip(chains, waiting, strict=True)}
        numbers = _statistics(with_dense(train, chains), wanted, count)
        for (feature, op), found in zip(waiting, numbers, strict=True):
            done[feature.name] += (_with_numbers(op, found),)


def _with_numbers(op: FittedOp, found: Mapping[str, float]) -> FittedOp:
    params: dict[str, Any] = {
        name: found.get(value, value) if isinstance(value, str) else value
        for name, value in op.params.items()
    }
    params.update({name: found[name] for name in feature_ops("dense")[op.name].from_train})
    return FittedOp(name=op.name, params=params)


def _statistics(rows: DataFrame, wanted: Mapping[str, set[str]], count: int) -> list[dict[str, float]]:
    """Return the statistics of each column over its values that are not missing; 0 where all are."""
    sampled = hash_share(F.col(C.ORDER)) < F.lit(sample_share(count))
    asked: list[Column] = []
    for number, (name, names) in enumerate(wanted.items()):
        x = F.col(name)
        columns = {"mean": F.avg(x), "std": F.stddev_pop(x), "min": F.min(x), "max": F.max(x)}
        if "median" in names:  # exact, so only over a sample that fits into memory
            columns["median"] = F.percentile(F.when(sampled, x), F.lit(0.5))
        asked += [value.alias(f"{statistic}_{number}") for statistic, value in columns.items()]
    row = rows.agg(*asked).first()
    assert row is not None
    result: list[dict[str, float]] = []
    for number, names in enumerate(wanted.values()):
        raw = {name: row[f"{name}_{number}"] or 0.0 for name in (*names, "mean", "std")}
        scale = raw["std"] or abs(raw["mean"]) or 1.0
        result.append({name: _rounded(float(raw[name]), scale) for name in names})
    return result


def _rounded(value: float, scale: float) -> float:
    """Round to `_DIGITS` significant digits of `scale`."""
    assert math.isfinite(value + scale), "the survey lets only finite values through"
    return round(value, _DIGITS - 1 - math.floor(math.log10(scale)))
