"""`prepare` from raw rows to a committed data set folder, and the same for rows to be scored."""

from __future__ import annotations

import datetime
import logging
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.catalogue import check_catalogue, write_items
from jobs.preparation.commit import output_folder, staged_folder
from jobs.preparation.dealing import deal, op_time_remarks
from jobs.preparation.dealt_rows import write_dealt
from jobs.preparation.dense_fit import fit_numbers_of_ids
from jobs.preparation.failures import named_source
from jobs.preparation.fitting import fit_spec
from jobs.preparation.labels import check_label_rule, negatives_kept, require_labels_that_differ
from jobs.preparation.matches import joined_tables
from jobs.preparation.moments import Moments
from jobs.preparation.parquet_scan import parquet_scan
from jobs.preparation.part_writing import remove_unfinished
from jobs.preparation.raw_copies import raw_copies
from jobs.preparation.raw_types import check_types
from jobs.preparation.report import write_report
from jobs.preparation.row_checks import row_checks, source_name
from jobs.preparation.rows import TaskRows, handed_over, large_batches
from jobs.preparation.sources import is_synthetic, require_columns
from jobs.preparation.splits import require_filled
from jobs.preparation.staging import of_source, stage
from jobs.preparation.statistics import Answers, check_measured, scan, statistics
from jobs.preparation.streams import streams_between_tasks
from jobs.preparation.survey import Survey, check_fitted, survey
from jobs.preparation.transform import encodable
from jobs.preparation.user_rows import user_row_remarks
from jobs.preparation.vectors import fit_vectors
from jobs.preparation.workers import workers_starting
from jobs.preparation.writing import (
    ROW_BYTES,
    Layout,
    part_files,
    rows_in_row_group,
    write_in_order,
    write_splits,
)
from jobs.session import same_results, spark_session
from trainer.config import RunConfig
from trainer.errors import ConfigError, DataError
from trainer.features.ops import check_ops
from trainer.records import LabelCounts
from trainer.schema import (
    GROUP_COLUMN,
    KEEP_PREFIX,
    SPLITS,
    WEIGHT_COLUMN,
    FeatureSpec,
    Manifest,
    Split,
    SplitName,
)
from trainer.storage import Place, as_place

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_SCRATCH = "_items"
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
    run: RunConfig, out: str | Path, *, frame: DataFrame | None = None, spark: SparkSession | None = None
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
    check_run(run)
    target = output_folder(out)
    spark = spark or (frame.sparkSession if frame is not None else spark_session("shardrec prepare"))
    with raw_copies(target), staged_folder(target) as folder, large_batches(spark), ExitStack() as cached:
        cached.enter_context(same_results(spark, reads_files=frame is None))
        cached.enter_context(workers_starting(spark))
        _LOGGER.info("reading and checking the rows")
        staged = stage(run, spark, frame, folder / _SCRATCH, cached)
        cached.enter_context(large_batches(spark, handed_over(staged.features)))
        streams = cached.enter_context(streams_between_tasks(spark, folder))
        vectors = fit_vectors(run, folder, spark, staged.remarks)
        with named_source(source_name(run)):  # the first pass reads all there is
            rows, features = deal(staged, run, folder, spark)
            cached.callback(rows.unpersist)
            check_types(rows, features)
            features = fit_numbers_of_ids(of_source(rows), features)
            checks = row_checks(rows, run, features)
            direct = parquet_scan(run, staged, checks, streams, cached) if frame is None else None
            counted = survey(direct or rows, run, features, checks, streams)
            cached.callback(counted.values.release)
        staged.remarks.extend(op_time_remarks(run, features, counted.spans))
        staged.remarks.extend(user_row_remarks(counted.rows, run.data.user_rows))
        require_labels_that_differ(counted.rows, counted.labels, run)
        require_filled(counted.rows, run.data.split)
        _LOGGER.info("fitting %s features on %s training rows", len(features), f"{counted.rows['train']:,}")
        spec = fit_spec(direct or of_source(rows), run, features, counted, vectors, folder)
        check_catalogue(run.data.catalogue, spec)
        check_fitted(direct or rows, features, spec.features)
        _LOGGER.info("writing %s rows", f"{sum(counted.rows.get(name, 0) for name in SPLITS):,}")
        answers = write_rows(rows, run, spec, counted, folder, spark, direct)
        write_items(of_source(rows), run, spec, folder, spark)
        shutil.rmtree(folder / _SCRATCH, ignore_errors=True)
        remove_unfinished(folder)
        # What follows needs neither the rows nor what tasks have handed on, files as large as the rows.
        with ThreadPoolExecutor(1) as beside:
            released = beside.submit(cached.close)
            _LOGGER.info("checking what was written")
            check_measured(spec, answers)
            splits = splits_in(folder, SPLITS, spec, answers)
            check_written(counted.rows, splits, source_name(run))
            manifest = Manifest(
                name=run.name,
                created=now(),
                seed=run.data.split.seed,
                config_hash=run.preparation_hash(),
                preparation=run.preparation(),
                spec=spec,
                splits=with_share_kept(splits, negatives_kept(*counted.of_first_task)),
                statistics=statistics(spec, answers, counted.missing),
                fingerprint=counted.fingerprint,
                cleaning=staged.cleaning,
                joins=joined_tables(run, staged.events or counted),
                remarks=tuple(staged.remarks),
                label_times=counted.label_times,
                raw=raw_places(run) if frame is None else None,
                synthetic=frame is None and is_synthetic(run),
                versions=versions(spark),
            )
            text = publish(manifest, folder)
            released.result()
    return Prepared(target, manifest, text, time.perf_counter() - start)


def publish(manifest: Manifest, folder: Path) -> str:
    """Write the manifest of a data set and its reports; return the one that is text."""
    text = write_report(manifest, folder)
    manifest.save(folder)
    write_page(folder)
    return text


def check_run(run: RunConfig) -> None:
    """Check what a config alone tells.

    Raises:
        ConfigError: an op is wrong, or the label has one class.
    """
    check_ops(run)
    check_label_rule(run)


def write_inputs(
    inputs: DataFrame,
    spec: FeatureSpec,
    out: str | Path,
    spark: SparkSession,
    *,
    name: str = "inputs",
    vectors_in: str | Place | None = None,
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
        vectors_in: data set that the spec is of; needed where it has vectors, which stay there.
        order_by: columns of `inputs` to sort by; none keeps the order of the rows.
        rows_per_row_group: rows of a Parquet row group.
        partitions: part files when sorting.

    Raises:
        DataError: a dense value is not finite, an id is outside its table, or a feature is missing.
        ConfigError: the spec has vectors, and no data set that holds them is named.
        UserError: no permission to write, or the disk is full.
    """
    require_columns([feature.name for feature in spec.features], inputs.columns, "inputs")
    if spec.vectors and vectors_in is None:
        raise ConfigError("name the data set that holds the vectors of the spec", where="vectors_in")
    with staged_folder(output_folder(out)) as folder:
        rows = inputs.withColumns({name: F.lit(0.0).cast("float") for name in spec.label_columns})
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
            created=now(),
            seed=0,
            config_hash="",
            spec=spec,
            splits=splits_in(folder, ("test",), spec, answers),
            statistics=statistics(spec, answers, {}),
            vectors_in=str(as_place(vectors_in).absolute()) if spec.vectors and vectors_in else None,
            versions=versions(spark),
        )
        manifest.save(folder)
    return manifest


def raw_places(run: RunConfig) -> dict[str, Any]:
    """Return where the raw rows lie, so that `recommend` finds them again from any folder."""
    root = run.data.root
    places = run.model_dump(mode="json", include={"data": {"source", "joins"}})["data"]
    return {"root": str(Path(root).absolute()) if ":" not in root else root, **places}


def write_rows(
    rows: DataFrame,
    run: RunConfig,
    spec: FeatureSpec,
    counted: Survey,
    folder: Path,
    spark: SparkSession,
    direct: TaskRows | None = None,
    first_parts: Mapping[str, int] | None = None,
) -> Answers:
    """Write the splits: features, label, weight, and the raw columns to keep.

    Args:
        rows: what `deal` returned.
        run: names the columns to keep, and the size of files and row groups.
        spec: fitted.
        counted: rows of each split.
        folder: of the data set under construction.
        spark: the session.
        direct: how tasks read the same rows by themselves.
        first_parts: number of the first part of each split, where the folder holds parts already.

    Returns:
        The measure of these rows, by split.
    """
    marks = {C.label(number): name for number, name in enumerate(spec.label_columns)}
    marks |= {C.WEIGHT: WEIGHT_COLUMN, C.GROUP: GROUP_COLUMN}
    others = {raw: name for raw, name in marks.items() if raw in rows.columns}
    others |= {name: KEEP_PREFIX + name for name in run.data.keep}
    size = _bytes_per_row(spec, counted)
    layout = Layout.of(counted.rows, run.data.rows_per_file, size, first_parts or {})
    chosen = rows.where(F.col(C.SPLIT).isin(*SPLITS))
    encoded = encodable(chosen, spec.features, folder, spark, direct)
    group = rows_in_row_group(run.data.rows_per_row_group, run.data.num_lanes, size)
    dealt = direct.dealt if direct is not None and encoded.rows is direct else None
    if dealt is not None:
        return write_dealt(dealt, encoded, others, layout, folder, spark, spec, rows_per_row_group=group)
    return write_splits(encoded, others, layout, folder, counted.streams, spec, rows_per_row_group=group)


def _bytes_per_row(spec: FeatureSpec, counted: Survey) -> float:
    """Return about what a prepared row takes in memory, with its hashes, label and weight."""
    rows = max(1, sum(counted.rows.values()))
    lists = sum(4 for feature in spec.features if feature.is_list)
    found = (8.0 * sum(counted.tokens.values()) + counted.kept_bytes) / rows
    return 4.0 * sum(f.dim or 1 for f in spec.dense) + lists + found + ROW_BYTES


def splits_in(
    folder: Path, names: Sequence[str], spec: FeatureSpec, answers: Answers
) -> dict[SplitName, Split]:
    """Return what lies in the folder; the schema checks the names."""
    return TypeAdapter(dict[SplitName, Split]).validate_python(
        {name: _split(folder, name, spec, answers) for name in names}
    )


def _split(folder: Path, name: str, spec: FeatureSpec, answers: Answers) -> Split:
    files = part_files(folder, name)
    found = answers.get(name)
    labels = label_counts(spec, found.labels) if found else {}
    first = found.labels[0] if found else Moments()
    return Split(
        rows=sum(file.rows for file in files),
        positives=0 if spec.tasks[0].is_rating else round(first.count * first.mean),
        files=files,
        labels=labels,
    )


def label_counts(spec: FeatureSpec, found: Sequence[Moments]) -> dict[str, LabelCounts]:
    """Return what the manifest says of labels; nothing where a lone binary one has its positives."""
    tasks = spec.tasks
    if not spec.labels and not tasks[0].is_rating:
        return {}
    return {
        task.name: LabelCounts(rows=x.count, mean=x.mean, std=x.std)
        for task, x in zip(tasks, found, strict=True)
    }


def with_share_kept(splits: dict[SplitName, Split], kept: float) -> dict[SplitName, Split]:
    """Record the share of the negatives that down-sampling left in the training split."""
    return {**splits, "train": splits["train"].model_copy(update={"negatives_kept": kept})}


def check_written(counted: Mapping[str, int], splits: Mapping[SplitName, Split], source: str) -> None:
    """Check that every row that was counted was written, once.

    Spark reads the source again where cached rows were lost, so one that has changed meanwhile gives others.
    """
    written = {name: split.rows for name, split in splits.items()}
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


def write_page(folder: Path) -> None:
    """Write the data report's page; whatever goes wrong there, the data set is worth keeping."""
    _LOGGER.info("looking at the data for its report")
    try:
        from trainer.reporting.data import write_data_report

        write_data_report(folder)
    except Exception as error:
        # A KeyError alone would say no more than the key.
        said = f"{error} ({type(error).__name__})"
        _LOGGER.warning("no report.html, the data set is complete without it: %s", said)


def versions(spark: SparkSession) -> dict[str, str]:
    """Return what a data set is made with."""
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


def now() -> str:
    """Return the time in UTC, ISO 8601."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
