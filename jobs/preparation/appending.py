"""Adds the rows of a new day to a data set, with its vocabularies as they are or grown."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.appendable import appended_to
from jobs.preparation.catalogue import write_catalogue
from jobs.preparation.commit import output_folder, staged_folder
from jobs.preparation.dealing import deal, op_time_remarks
from jobs.preparation.earlier_days import EarlierDays, check_whole
from jobs.preparation.encodings import ENCODING_FOLDER, grow_encodings
from jobs.preparation.failures import named_source
from jobs.preparation.fitting import wanted_vocabulary
from jobs.preparation.item_log_q import write_item_log_q
from jobs.preparation.label_times import with_later
from jobs.preparation.labels import negatives_kept
from jobs.preparation.matches import joined_tables
from jobs.preparation.parquet_scan import parquet_scan
from jobs.preparation.part_writing import next_part, remove_unfinished
from jobs.preparation.pipeline import (
    Prepared,
    check_written,
    now,
    publish,
    raw_places,
    splits_in,
    with_share_kept,
    write_rows,
)
from jobs.preparation.planned import PlannedFeature
from jobs.preparation.raw_copies import raw_copies
from jobs.preparation.raw_types import check_types
from jobs.preparation.row_checks import row_checks, source_name
from jobs.preparation.rows import handed_over, large_batches
from jobs.preparation.staging import Staged, of_source, stage
from jobs.preparation.statistics import Answers, scan, statistics
from jobs.preparation.streams import streams_between_tasks
from jobs.preparation.survey import Survey, survey
from jobs.preparation.vectors import FittedVectors, grow_vectors
from jobs.preparation.vocabulary import FittedVocabulary, GrownVocabulary, WantedVocabulary, grow_vocabularies
from jobs.session import same_results, spark_session
from trainer.config import RunConfig
from trainer.config.negatives import LOG_Q_FOLDER
from trainer.errors import DataError
from trainer.schema import SPLITS, Appended, Feature, FeatureSpec, Manifest, Split, SplitName

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Mode = Literal["frozen", "grow"]
_LOGGER = logging.getLogger(__name__)  # What a person sees of it is `jobs.attended`'s.
_SCRATCH = "_items"
_DATA = ("vocabulary", "vectors", *SPLITS)


def append_rows(
    run: RunConfig,
    out: str | Path,
    mode: Mode,
    *,
    frame: DataFrame | None = None,
    spark: SparkSession | None = None,
    into: SplitName | None = None,
    earlier: EarlierDays | None = None,
) -> Prepared:
    """Add rows to a data set; it stays as it is until the larger one is complete.

    Fitted numbers stay, old ids keep their numbers, and old part files are not written again.

    Args:
        run: the config of the data set; its source holds the new rows alone.
        out: folder of the data set.
        mode: `frozen` applies the stored feature spec, so that new values are out of vocabulary; `grow` gives
            values of the new training rows that reach `min_count` among them the ids after the last ones, and
            adds the vectors of new ids, the new training rows to target encodings and logQ, and new items to
            those that are drawn as negatives.
        frame: new rows to take instead of `data.source`.
        spark: session; by default the active one, or a new local one.
        into: split that all new rows go to; by default the config deals them.
        earlier: raw rows of the data set, all of them, for what looks at old rows as well: histories,
            `earlier`, duplicates and negatives. They are not written again.

    Raises:
        ConfigError: the config is not that of the data set, or has what a day's rows alone cannot give; or
            features that share vectors name different sources for them.
        DataError: there is no data set, the rows cannot be used, or they were added before.
        UserError: no permission to write, or the disk is full.
    """
    start = time.perf_counter()
    target, old = output_folder(out), appended_to(run, out, into, earlier)
    spark = spark or (frame.sparkSession if frame is not None else spark_session("shardrec prepare"))
    with raw_copies(target), staged_folder(target) as folder, large_batches(spark), ExitStack() as cached:
        cached.enter_context(same_results(spark, reads_files=frame is None))
        _link(target, folder, _DATA if mode == "grow" else (*_DATA, ENCODING_FOLDER, LOG_Q_FOLDER))
        _LOGGER.info("reading and checking the new rows")
        staged = stage(
            run, spark, frame, folder / _SCRATCH, cached, earlier, into=into, new_items=mode == "grow"
        )
        cached.enter_context(large_batches(spark, handed_over(staged.features)))
        streams = cached.enter_context(streams_between_tasks(spark, folder))
        staged = replace(staged, features=_with_stored_ops(staged, old.spec))
        with named_source(source_name(run)):
            rows, features = deal(staged, run, folder, spark, into=into, fitted_in=target)
            cached.callback(rows.unpersist)
            check_types(rows, features)
            checks = row_checks(rows, run, features)
            direct = None if frame is not None or into else parquet_scan(run, staged, checks, streams, cached)
            counted = survey(direct or rows, run, features, checks, streams, trains=False)
            cached.callback(counted.values.release)
        _check_rows(counted, staged, old, run)
        spec = old.spec
        if mode == "grow":
            spec = _grown(features, old.spec, counted, folder)
            spec = _with_vectors(spec, grow_vectors(run, spec, folder, spark, staged.remarks))
            spec = _with_encodings(spec, features, of_source(rows), target, folder, spark)
            _grow_log_q(run, spec, of_source(rows), target, folder, spark)
        _LOGGER.info("writing %s rows", f"{sum(counted.rows.get(name, 0) for name in SPLITS):,}")
        first_parts: dict[str, int] = {name: next_part(folder / name) for name in old.splits}
        write_rows(rows, run, spec, counted, folder, spark, direct, first_parts)
        write_catalogue(run.data.catalogue, folder, spark)
        cached.close()
        shutil.rmtree(folder / _SCRATCH, ignore_errors=True)
        remove_unfinished(folder)
        _LOGGER.info("checking what was written")
        answers = scan(folder, spec, spark)
        before = Counter({str(name): split.rows for name, split in old.splits.items()})
        splits = splits_in(folder, SPLITS, spec, answers)
        check_written(before + Counter(counted.rows), splits, source_name(run))
        added = _added(run, mode, counted, into, from_source=frame is None)
        whole = _with_rows(old, spec, splits, answers, counted)
        manifest = _with_day(whole, run, added, staged, counted)
        text = publish(manifest, folder)
    return Prepared(target, manifest, text, time.perf_counter() - start)


def _link(target: Path, folder: Path, names: Sequence[str]) -> None:
    """Put old parts, vocabularies and so on into the new folder, uncopied where the file system can."""
    for name in names:
        for path in sorted((target / name).rglob("part-*")):
            copy = folder / path.relative_to(target)
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, copy)
            except OSError:
                shutil.copy2(path, copy)


def _with_stored_ops(staged: Staged, spec: FeatureSpec) -> list[PlannedFeature]:
    """Return the planned features with the numbers that were fitted on the first rows."""
    stored = {feature.name: feature for feature in spec.features}
    found = [feature.name for feature in staged.features]
    if found != list(stored):
        raise DataError(
            "the new rows have other columns than the data set was made of",
            where="features",
            got=sorted(set(found) ^ set(stored)) or found,
            fixes=["name the columns of the data set instead of a glob", "prepare all rows again"],
        )
    for feature in staged.features:
        if feature.is_list != stored[feature.name].is_list:
            raise DataError(
                f"feature {feature.name!r} was fitted on {'single values' if feature.is_list else 'lists'}",
                where=f"{feature.where}: column {feature.column!r}",
            )
    return [replace(f, ops=stored[f.name].ops, derived=stored[f.name].derived) for f in staged.features]


def _check_rows(counted: Survey, staged: Staged, old: Manifest, run: RunConfig) -> None:
    """Check that the new rows are not there already, and that old ones, if any, are those of the data set."""
    known = {old.fingerprint: old.created, **{a.fingerprint: a.created for a in old.appended}}
    if counted.fingerprint in known:
        raise DataError(
            "the same rows are in the data set already",
            where=source_name(run),
            got=f"added at {known[counted.fingerprint]}",
            fixes=["name the rows of another day: --input", "nothing is to be done"],
        )
    if C.OLD in staged.rows.columns:
        check_whole(staged.rows.where(F.col(C.OLD)), old)


def _grown(
    features: Sequence[PlannedFeature], spec: FeatureSpec, counted: Survey, folder: Path
) -> FeatureSpec:
    """Return the spec with grown vocabularies, and room for larger ids in tables of raw ids."""
    _LOGGER.info("growing vocabularies by %s training rows", f"{counted.rows.get('train', 0):,}")
    stored = {feature.name: feature for feature in spec.features}
    grown = [_to_grow(stored[f.name], wanted_vocabulary(f)) for f in features if f.owns_vocabulary]
    vocabularies = grow_vocabularies(counted, grown, folder)
    first_ids = {g.wanted.table: g.wanted.first_id for g in grown}
    largest: dict[str | None, int] = {}
    for feature in features:
        table, found = feature.table, counted.largest_id.get(feature.name, -1)
        largest[table] = max(largest.get(table, -1), found)
    return spec.model_copy(
        update={"features": tuple(_larger(f, vocabularies, first_ids, largest) for f in spec.features)}
    )


def _to_grow(stored: Feature, wanted: WantedVocabulary) -> GrownVocabulary:
    assert stored.vocabulary is not None
    assert stored.vocabulary_hash is not None
    rows = stored.num_embeddings or 0
    vocabulary = FittedVocabulary(stored.vocabulary, rows - wanted.first_id, stored.vocabulary_hash)
    return GrownVocabulary(vocabulary, wanted, rows)


def _larger(
    feature: Feature,
    vocabularies: dict[str, FittedVocabulary],
    first_ids: dict[str, int],
    largest: dict[str | None, int],
) -> Feature:
    if feature.kind == "dense" or feature.table is None:
        return feature
    vocabulary = vocabularies.get(feature.table)
    if vocabulary is not None:
        rows = first_ids[feature.table] + vocabulary.size
        return feature.model_copy(update={"num_embeddings": rows, "vocabulary_hash": vocabulary.digest})
    rows = max(feature.num_embeddings or 0, largest.get(feature.table, -1) + 1)
    return feature.model_copy(update={"num_embeddings": rows})


def _with_vectors(spec: FeatureSpec, grown: dict[str, FittedVectors]) -> FeatureSpec:
    changes = {
        name: {
            "num_embeddings": vectors.num_embeddings,
            "vocabulary_hash": vectors.vocabulary.digest,
            "vectors": vectors.table,
        }
        for name, vectors in grown.items()
    }
    features = tuple(f.model_copy(update=changes.get(f.name, {})) for f in spec.features)
    return spec.model_copy(update={"features": features})


def _missing(old: Manifest, counted: Survey) -> dict[str, int]:
    """Return the missing values of all training rows, old and new."""
    rows = old.splits["train"].rows
    return {
        name: round(old.statistics[name].null_share * rows) + found for name, found in counted.missing.items()
    }


def _with_encodings(
    spec: FeatureSpec,
    features: Sequence[PlannedFeature],
    rows: DataFrame,
    target: Path,
    folder: Path,
    spark: SparkSession,
) -> FeatureSpec:
    encoded = [f for f in features if f.derived is not None and f.derived.name == "target_encoding"]
    grown = grow_encodings(rows.where(F.col(C.SPLIT) == "train"), encoded, target, folder, spark)
    kept = tuple(f.model_copy(update={"derived": grown.get(f.name, f.derived)}) for f in spec.features)
    return spec.model_copy(update={"features": kept})


def _grow_log_q(
    run: RunConfig, spec: FeatureSpec, rows: DataFrame, target: Path, folder: Path, spark: SparkSession
) -> None:
    if run.data.negatives is not None and run.data.negatives.in_batch.log_q:
        write_item_log_q(rows, run, spec, folder, spark, before=target)


def _added(
    run: RunConfig, mode: Mode, counted: Survey, into: SplitName | None, *, from_source: bool
) -> Appended:
    return Appended(
        created=now(),
        mode=mode,
        rows={name: counted.rows.get(name, 0) for name in SPLITS},
        fingerprint=counted.fingerprint,
        raw=raw_places(run) if from_source else None,
        into=into,
        until=tuple(run.data.split.until) if into is None and run.data.split.until else None,
    )


def _with_rows(
    old: Manifest,
    spec: FeatureSpec,
    splits: dict[SplitName, Split],
    answers: Answers,
    counted: Survey,
) -> Manifest:
    """Return the manifest of old and new rows together."""
    update = {
        "spec": spec,
        "splits": with_share_kept(splits, _share_kept(old.splits["train"], counted)),
        "statistics": statistics(spec, answers, _missing(old, counted)),
        "label_times": with_later(old.label_times, counted.label_times),
    }
    return old.model_copy(update=update)


def _with_day(
    manifest: Manifest, run: RunConfig, added: Appended, staged: Staged, counted: Survey
) -> Manifest:
    """Return the manifest with a day's own record; from now on the data set is that of the day's config."""
    remarks = [*staged.remarks, *op_time_remarks(run, staged.features, counted.spans)]
    return manifest.model_copy(
        update={
            "config_hash": run.preparation_hash(),
            "preparation": run.preparation(),
            "appended": (*manifest.appended, added),
            "joins": joined_tables(run, counted, manifest.joins),
            "remarks": (*manifest.remarks, *remarks),
        }
    )


def _share_kept(train: Split, counted: Survey) -> float:
    """Return the share of the negatives, of old and new training rows, that down-sampling left."""
    left = train.labelled - train.positives
    before = round(left / train.negatives_kept) - left
    labelled, positives, dropped = counted.of_first_task
    return negatives_kept(train.labelled + labelled, train.positives + positives, before + dropped)
