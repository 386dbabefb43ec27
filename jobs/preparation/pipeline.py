"""`prepare` from raw rows to a committed data set folder, and the same for rows to be scored."""

from __future__ import annotations

import datetime
import logging
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.checks import check_fitted, label_value, source_name, survey
from jobs.preparation.commit import output_folder, staged_folder
from jobs.preparation.failures import named_source
from jobs.preparation.feature_ops import check_ops
from jobs.preparation.fitting import fit_spec
from jobs.preparation.histories import event_counts
from jobs.preparation.planned import PlannedFeature, plan_features
from jobs.preparation.report import write_report
from jobs.preparation.sources import require_columns, rows_and_columns
from jobs.preparation.splits import with_split
from jobs.preparation.statistics import Answers, scan, statistics
from jobs.preparation.transform import counts_column, input_columns, with_inputs
from jobs.preparation.vocabulary import Vocabularies
from jobs.preparation.writing import part_files, write_in_order, write_splits
from jobs.session import spark_session
from trainer.config import RunConfig
from trainer.errors import DataError
from trainer.schema import (
    KEEP_PREFIX,
    LABEL_COLUMN,
    SPLITS,
    WEIGHT_COLUMN,
    FeatureSpec,
    FeatureStatistics,
    Manifest,
    Split,
    SplitName,
)

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

_LOGGER = logging.getLogger(__name__)  # What a person sees of it is `jobs.attended`'s.


@dataclass(frozen=True)
class Prepared:
    """A prepared data set: its folder, manifest, the printed report, and how long it took."""

    path: Path
    manifest: Manifest
    report_text: str
    seconds: float

    @property
    def rows(self) -> dict[str, int]:
        """Return the rows of each split."""
        return {name: split.rows for name, split in self.manifest.splits.items()}


def prepare_dataset(
    run: RunConfig,
    out: str | Path,
    *,
    frame: DataFrame | None = None,
    spark: SparkSession | None = None,
) -> Prepared:
    """Prepare a data set folder; an existing data set there stays as it is until the new one is complete.

    Args:
        run: the run config.
        out: folder of the data set (local or mounted).
        frame: raw rows to take instead of `data.source`.
        spark: session; by default the active one, or a new local one.

    Raises:
        ConfigError: the config does not fit the raw columns.
        DataError: the rows cannot be used, or the output is something else than a data set.
        UserError: no permission to write, or the disk is full.
    """
    start = time.perf_counter()
    check_ops(run)
    target = output_folder(out)
    spark = spark or (frame.sparkSession if frame is not None else spark_session("shardrec prepare"))
    with staged_folder(target) as folder:
        _LOGGER.info("reading and checking the rows")
        rows, features = _staged_rows(run, spark, frame)
        rows = rows.persist()
        try:
            with named_source(source_name(run)):  # the first pass reads all there is
                rows = with_split(rows, run.data.split)
                counted = survey(rows, run, features)
            _LOGGER.info(
                "fitting %s features on %s training rows", len(features), f"{counted.rows['train']:,}"
            )
            spec = fit_spec(rows, run, features, counted, folder, spark)
            check_fitted(rows, features, spec.features)
            vocabularies = Vocabularies.load(spec, folder, spark)
            made = with_inputs(rows, spec.features, vocabularies)
            columns = [*input_columns(spec.features), *_other_columns(rows, run)]
            _LOGGER.info("writing %s rows", f"{sum(counted.rows.values()):,}")
            write_splits(
                made,
                columns,
                counted.rows,
                folder,
                rows_per_file=run.data.rows_per_file,
                rows_per_row_group=run.data.rows_per_row_group,
            )
        finally:
            rows.unpersist()
        _LOGGER.info("checking what was written")
        answers = scan(folder, spec, spark)
        _check_written(counted.rows, answers, source_name(run))
        manifest = Manifest(
            name=run.name,
            created=_now(),
            seed=run.data.split.seed,
            config_hash=run.preparation_hash(),
            preparation=run.preparation(),
            spec=spec,
            splits=_splits(folder, SPLITS, answers),
            statistics=statistics(spec, answers, counted.missing),
            raw=_raw_places(run) if frame is None else None,
            versions=_versions(spark),
        )
        text = write_report(manifest, folder)
        manifest.save(folder)
    return Prepared(target, manifest, text, time.perf_counter() - start)


def write_inputs(
    inputs: DataFrame,
    spec: FeatureSpec,
    out: str | Path,
    spark: SparkSession,
    *,
    name: str = "inputs",
    order_by: Sequence[str] = (),
    rows_per_row_group: int = 65_536,
    partitions: int = 8,
) -> Manifest:
    """Write model inputs without labels as a data set of one split, `test`, whose labels are all 0.

    Args:
        inputs: what `apply_spec` returned for all features; other columns (`keep.<name>`) are kept.
        spec: the fitted spec.
        out: folder of the data set.
        spark: the session.
        name: of the data set.
        order_by: columns of `inputs` to sort by; none keeps the order of the rows.
        rows_per_row_group: rows of a Parquet row group.
        partitions: part files when sorting.

    Raises:
        DataError: a dense value is not finite, an id is outside its table, or a feature is missing.
        UserError: no permission to write, or the disk is full.
    """
    require_columns([feature.name for feature in spec.features], inputs.columns, "inputs")
    with staged_folder(output_folder(out)) as folder:
        rows = inputs.withColumn(LABEL_COLUMN, F.lit(0.0).cast("float"))
        write_in_order(
            rows,
            folder / "test",
            order_by=order_by,
            rows_per_row_group=rows_per_row_group,
            partitions=partitions,
        )
        answers = scan(folder, spec, spark)
        manifest = Manifest(
            name=name,
            created=_now(),
            seed=0,
            config_hash="",
            spec=spec,
            splits=_splits(folder, ("test",), answers),
            statistics=statistics(spec, answers, {}) if answers else _no_statistics(spec),
            versions=_versions(spark),
        )
        manifest.save(folder)
    return manifest


def _staged_rows(
    run: RunConfig, spark: SparkSession, frame: DataFrame | None
) -> tuple[DataFrame, list[PlannedFeature]]:
    """Return the raw columns that the run needs, with the row's hashes, and the planned features."""
    rows, own = rows_and_columns(run, spark, frame)
    data = run.data
    have = [name for name in rows.columns if name != C.BAD_LINE]
    require_columns([data.label.column], have, "data.label.column")
    require_columns([data.weight] if data.weight else [], have, "data.weight")
    require_columns(data.keep, have, "data.keep")
    require_columns([data.split.column] if data.split.column else [], have, "data.split.column")
    features = plan_features(run, rows)
    needed = [data.label.column, *data.keep, *(f.column for f in features)]
    needed += [name for name in (data.weight, data.split.column) if name is not None]
    for feature in features:
        if feature.history is not None:
            needed += [feature.history.params["user"], feature.history.params["time"]]
    rows = C.with_row_hashes(rows, own, run.data.split.seed)
    numbers = [data.label.column, *(f.column for f in features if f.kind == "dense")]
    rows = C.with_numbers(rows, [*numbers, *([data.weight] if data.weight else [])])
    typed = [C.column(name) for name in rows.columns if name.startswith(C.NUMBER)]
    kept = [C.column(name) for name in dict.fromkeys(needed)]
    conditions = [
        event_counts(rows, f.history.params["where"], f"{f.where}.history.where").alias(counts_column(f.name))
        for f in features
        if f.history is not None and f.history.params["where"] is not None
    ]
    return rows.select(*kept, *typed, *conditions, C.HASH, C.ORDER, C.BAD_LINE), features


def _raw_places(run: RunConfig) -> dict[str, Any]:
    """Return where the raw rows lie, so that `recommend` finds them again from any folder."""
    root = run.data.root
    places = run.model_dump(mode="json", include={"data": {"source", "joins"}})["data"]
    return {"root": str(Path(root).absolute()) if ":" not in root else root, **places}


def _other_columns(rows: DataFrame, run: RunConfig) -> list[Column]:
    columns = [label_value(rows, run.data.label).alias(LABEL_COLUMN)]
    if run.data.weight is not None:
        columns.append(C.number(rows, run.data.weight).cast("float").alias(WEIGHT_COLUMN))
    return columns + [C.column(name).alias(KEEP_PREFIX + name) for name in run.data.keep]


def _splits(folder: Path, names: Sequence[str], answers: Answers) -> dict[SplitName, Split]:
    """Return what lies in the folder; the schema checks the names."""
    return TypeAdapter(dict[SplitName, Split]).validate_python(
        {name: _split(folder, name, answers) for name in names}
    )


def _split(folder: Path, name: str, answers: Answers) -> Split:
    files = part_files(folder, name)
    found = answers.get(name, {})
    return Split(
        rows=sum(file.rows for file in files), positives=int(found.get("positives") or 0), files=files
    )


def _check_written(counted: Mapping[str, int], answers: Answers, source: str) -> None:
    """Check that every row that was counted was written, once.

    Spark reads the source again where cached rows were lost, so one that has changed meanwhile gives others.
    """
    written = {name: int(answers[name]["rows"]) if name in answers else 0 for name in SPLITS}
    expected = {name: counted.get(name, 0) for name in SPLITS}
    if written != expected:
        raise DataError(
            "the rows written are not the rows that were counted before",
            where=source,
            got=written,
            allowed=str(expected),
            fixes=[
                "run prepare again when nothing writes to the source",
                "write a source that is computed anew each time it is read to Parquet first",
            ],
        )


def _no_statistics(spec: FeatureSpec) -> dict[str, FeatureStatistics]:
    return {feature.name: FeatureStatistics() for feature in spec.features}


def _versions(spark: SparkSession) -> dict[str, str]:
    try:
        own = metadata.version("shardrec")
    except metadata.PackageNotFoundError:  # run from a checkout
        own = "source"
    return {
        "shardrec": own,
        "python": platform.python_version(),
        "pyspark": str(spark.version),
        "pyarrow": metadata.version("pyarrow"),
    }


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
