"""The feature spec applied to raw rows on the executors: the one way that model inputs are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.preparation import columns as C
from jobs.preparation.derived import with_derived
from jobs.preparation.joined_ids import with_joined_ids
from jobs.preparation.labels import known_label, stored_task
from jobs.preparation.raw_types import check_types
from jobs.preparation.rows import RawColumns, TaskRows, mapped
from jobs.preparation.sources import require_columns
from jobs.preparation.time_formats import with_iso_times
from trainer.features import chains
from trainer.features.row_encoder import RowEncoder, joined_ids
from trainer.schema import KEEP_PREFIX, Feature, FeatureSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def apply_spec(
    frame: DataFrame,
    spec: FeatureSpec,
    dataset: str | Path,
    spark: SparkSession,
    *,
    features: Sequence[str] | None = None,
    keep: Sequence[str] = (),
) -> DataFrame:
    """Turn raw rows into model inputs with the numbers and vocabularies that `prepare` fitted.

    Args:
        frame: raw rows. A feature that is made of several rows (`derived`) is taken from a column of the
            feature's own name, if there is one (for a history raw item ids, oldest first; see
            `history_as_of_now`), else made of the rows of this very frame.
        spec: of the prepared data set.
        dataset: folder of the prepared data set, which holds the vocabularies.
        spark: the session.
        features: make only these inputs, for instance those of the user; default all.
        keep: raw columns to carry along as `keep.<name>`.

    Returns:
        One row per row of `frame`, in no certain order: the features, then the kept columns.

    Raises:
        DataError: a raw column is missing or of a type that cannot be used; or the labels of earlier rows
            are needed, and there are none.
    """
    wanted = [f for f in spec.features if features is None or f.name in features]
    frame = with_iso_times(frame, spec.time_formats)
    require_columns(list(keep), frame.columns, "keep")
    known = known_label(frame, stored_task(spec))
    frame = with_derived(frame, wanted, known, dataset, spark)
    if spec.target in wanted and C.TARGETS not in frame.columns:  # rows to be scored have nothing to be found
        frame = frame.withColumn(C.TARGETS, F.array().cast("array<string>"))
    for feature in wanted:
        require_columns(chains.raw_columns(feature), frame.columns, f"feature {feature.name!r}")
    return with_features(frame, wanted, dataset, spark, keep=keep)


def with_features(
    frame: DataFrame,
    features: Sequence[Feature],
    dataset: str | Path,
    spark: SparkSession,
    *,
    keep: Sequence[str] = (),
) -> DataFrame:
    """Return the features of rows that have all raw and derived columns, and `keep.<name>` columns."""
    check_types(frame, features)
    encoded = encodable(frame, features, Path(dataset), spark)
    fields = [T.StructField(f.name, _type(f)) for f in features]
    kept = [T.StructField(KEEP_PREFIX + name, frame.schema[name].dataType) for name in keep]
    work = _Apply(encoded.features, str(dataset), tuple(keep))
    return mapped(encoded.rows, [*encoded.columns, *keep], work, T.StructType([*fields, *kept]))


@dataclass(frozen=True)
class Encodable:
    """Raw rows from which `RowEncoder` can make all features.

    Attributes:
        rows: the rows, with the ids of vocabularies too large for one process.
        features: to make.
        columns: of `rows` that are needed.
    """

    rows: DataFrame | TaskRows
    features: tuple[Feature, ...]
    columns: tuple[str, ...]


def encodable(
    frame: DataFrame,
    features: Sequence[Feature],
    dataset: Path,
    spark: SparkSession,
    direct: TaskRows | None = None,
) -> Encodable:
    """Join what cannot be held in memory to the rows; see `Encodable`.

    Args:
        frame: raw rows.
        features: to make.
        dataset: folder with the vocabularies.
        spark: the session.
        direct: how tasks read the same rows by themselves, which they do where nothing has to be joined.
    """
    rows: DataFrame | TaskRows
    rows, joined = with_joined_ids(frame, features, dataset, spark)
    if direct is not None and not joined:
        rows = direct
    near = [f for f in features if f not in joined]
    columns = [name for f in near for name in chains.raw_columns(f)]
    columns += [joined_ids(f.name) for f in joined]
    return Encodable(rows, tuple(features), tuple(dict.fromkeys(columns)))


def encoder(features: Sequence[Feature], dataset: str, columns: Sequence[str]) -> RowEncoder:
    """Return the encoder of a task, which reads no vocabulary whose ids are among the columns already."""
    near = [f for f in features if joined_ids(f.name) not in columns]
    held = RowEncoder.of(near, dataset)
    return RowEncoder(tuple(features), held.vocabularies)


@dataclass(frozen=True)
class _Apply:
    features: tuple[Feature, ...]
    dataset: str
    keep: tuple[str, ...]

    def __call__(self, batches: Iterator[RawColumns]) -> Iterator[pa.RecordBatch]:
        for columns in batches:
            made = encoder(self.features, self.dataset, tuple(columns)).encode(columns)
            made |= {KEEP_PREFIX + name: columns[name] for name in self.keep}
            yield pa.RecordBatch.from_arrays(list(made.values()), list(made))


def _type(feature: Feature) -> T.DataType:
    if feature.kind == "dense":
        return T.FloatType() if feature.dim is None else T.ArrayType(T.FloatType())
    return T.ArrayType(T.LongType()) if feature.is_list else T.LongType()
