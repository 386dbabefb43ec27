"""Fits the feature spec on the training rows, in as few passes as the ops need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.dense_fit import fit_dense
from jobs.preparation.labels import fitted_label
from jobs.preparation.planned import PlannedFeature
from jobs.preparation.rows import TaskRows
from jobs.preparation.survey import Survey
from jobs.preparation.vectors import FittedVectors
from jobs.preparation.vocabulary import FittedVocabulary, WantedVocabulary, fit_vocabularies
from trainer.config import RunConfig
from trainer.features.ids import first_id
from trainer.features.ops import largest_number
from trainer.records import TaskLabel
from trainer.schema import Feature, FeatureSpec, FittedOp

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def fit_spec(
    rows: DataFrame | TaskRows,
    run: RunConfig,
    features: Sequence[PlannedFeature],
    counted: Survey,
    vectors: Mapping[str, FittedVectors],
    dataset: Path,
) -> FeatureSpec:
    """Fit every op on the training rows and write the vocabularies.

    Args:
        rows: raw rows with `SPLIT`.
        run: names labels and weight.
        features: planned features.
        counted: rows of the training split, counts of their tokens, largest ids.
        vectors: of the features that look them up.
        dataset: folder of the data set under construction.
    """
    is_train = F.col(C.SPLIT) == "train"
    train = rows.only_training() if isinstance(rows, TaskRows) else rows.where(is_train)
    dense = fit_dense(train, [f for f in features if f.kind == "dense"], counted.rows["train"])
    wanted = [wanted_vocabulary(f) for f in features if f.owns_vocabulary]
    vocabularies = fit_vocabularies(counted, wanted, dataset)
    fitted = tuple(
        Feature(name=f.name, kind="dense", column=f.column, derived=f.derived, ops=dense[f.name])
        if f.kind == "dense"
        else _vector_feature(f, vectors[f.name])
        if f.kind == "vector"
        else _id_feature(f, features, counted, vocabularies)
        for f in features
    )
    labels = tuple(
        TaskLabel(name=task.name, params=fitted_label(task, counted.labels[task.number]))
        for task in run.data.tasks
    )
    return FeatureSpec(
        features=fitted,
        label=FittedOp(name="label", params=labels[0].params),
        labels=labels if run.data.labels else (),
        weight=run.data.weight_column,
        time_formats=run.data.time_formats,
    )


def wanted_vocabulary(feature: PlannedFeature) -> WantedVocabulary:
    """Return what the vocabulary of a feature is made of."""
    assert feature.id_op is not None
    params = feature.id_op.params
    return WantedVocabulary(feature.name, params["min_count"], params["max_size"], first_id(feature.id_op))


def _vector_feature(feature: PlannedFeature, vectors: FittedVectors) -> Feature:
    return Feature(
        name=feature.name,
        kind="vector",
        column=feature.column,
        ops=feature.ops,
        num_embeddings=vectors.num_embeddings,
        vocabulary=vectors.vocabulary.folder,
        vocabulary_hash=vectors.vocabulary.digest,
        vectors=vectors.table,
    )


def _id_feature(
    feature: PlannedFeature,
    features: Sequence[PlannedFeature],
    counted: Survey,
    vocabularies: Mapping[str, FittedVocabulary],
) -> Feature:
    vocabulary = vocabularies.get(feature.table)
    if vocabulary is not None:
        assert feature.id_op is not None
        rows = first_id(feature.id_op) + vocabulary.size
    elif feature.id_op is not None:
        rows = feature.id_op.params["num_buckets"] + 1
    else:
        rows = 1 + max(
            max(counted.largest_id.get(f.name, 0), largest_number(f.ops, f.kind))
            for f in features
            if f.has_table and f.table == feature.table
        )
    return Feature(
        name=feature.name,
        kind=feature.kind,
        column=feature.column,
        derived=feature.derived,
        ops=feature.ops,
        is_list=feature.is_list,
        table=feature.table,
        num_embeddings=rows,
        vocabulary=vocabulary.folder if vocabulary else None,
        vocabulary_hash=vocabulary.digest if vocabulary else None,
        role="target" if feature.column == C.TARGETS else "input",
    )
