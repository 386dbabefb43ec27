"""Statistics of a written data set, and the last check that what was written can be trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.preparation.measures import DenseMeasure, IdMeasure, SplitMeasure, measure
from trainer.errors import DataError
from trainer.features.chains import id_op
from trainer.features.ids import first_id
from trainer.schema import Feature, FeatureSpec, FeatureStatistics

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Answers = dict[str, SplitMeasure]


def scan(dataset: Path, spec: FeatureSpec, spark: SparkSession) -> Answers:
    """Read the written parts once and return what they hold, by split.

    Raises:
        DataError: a dense value is not finite, or an id is outside its table.
    """
    answers = measure(dataset, spec, spark)
    check_measured(spec, answers)
    return answers


def check_measured(spec: FeatureSpec, answers: Answers) -> None:
    """Check that what was written can be trained on.

    Raises:
        DataError: a dense value is not finite, or an id is outside its table.
    """
    for number, feature in enumerate(spec.features):
        _check(feature, sum(split.features[number].bad for split in answers.values()))


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
    others = [split for name, split in answers.items() if name != "train"]
    result: dict[str, FeatureStatistics] = {}
    for number, feature in enumerate(spec.features):
        found = train.features[number]
        if isinstance(found, DenseMeasure):
            share = missing.get(feature.name, 0) / train.rows
            result[feature.name] = FeatureStatistics(
                null_share=share, mean=found.mean, std=found.std, min=found.min, max=found.max
            )
            continue
        result[feature.name] = FeatureStatistics(
            ids=_size(feature) if feature.vocabulary else found.distinct if found.counts_distinct else None,
            mean_length=found.ids / train.rows if feature.is_list else 1.0,
            null_share=missing.get(feature.name, found.empty) / train.rows,
            oov_share=_oov_share(number, others),
            train_oov_share=_oov_share(number, [answers["train"]]) if "train" in answers else None,
        )
    return result


def _size(feature: Feature) -> int:
    op = id_op(feature)
    assert op is not None
    return (feature.num_embeddings or 0) - first_id(op)


def _oov_share(number: int, splits: Sequence[SplitMeasure]) -> float:
    found = [split.features[number] for split in splits]
    measures = [measure for measure in found if isinstance(measure, IdMeasure)]
    ids, unknown = sum(measure.ids for measure in measures), sum(measure.oov for measure in measures)
    return unknown / ids if ids else 0.0


def _check(feature: Feature, bad: int) -> None:
    if bad and feature.kind == "dense":
        raise DataError(
            f"dense feature {feature.name!r} has {bad} value(s) that are missing or not finite after its ops",
            where=f"column {feature.column!r}",
            fixes=["add `fill: 0`", "add `clip: {min: ..., max: ...}`"],
        )
    if bad:
        raise DataError(
            f"feature {feature.name!r} has {bad} id(s) outside its table",
            where=f"column {feature.column!r}",
            allowed=f"0 to {(feature.num_embeddings or 0) - 1}",
        )
