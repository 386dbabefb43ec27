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
from typing import TYPE_CHECKING, Any, Literal

from jobs.preparation.commit import output_folder, staged_folder
from jobs.preparation.failures import named_source
from jobs.preparation.fitting import wanted_vocabulary
from jobs.preparation.parquet_scan import parquet_scan
from jobs.preparation.part_writing import next_part, remove_unfinished
from jobs.preparation.pipeline import (
    Prepared,
    check_written,
    deal,
    now,
    raw_places,
    splits_in,
    write_page,
    write_rows,
)
from jobs.preparation.planned import PlannedFeature
from jobs.preparation.raw_types import check_types
from jobs.preparation.report import write_report
from jobs.preparation.row_checks import row_checks, source_name
from jobs.preparation.rows import large_batches
from jobs.preparation.staging import Staged, stage
from jobs.preparation.statistics import scan, statistics
from jobs.preparation.streams import streams_between_tasks
from jobs.preparation.survey import Survey, survey
from jobs.preparation.vectors import FittedVectors, grow_vectors
from jobs.preparation.vocabulary import FittedVocabulary, GrownVocabulary, WantedVocabulary, grow_vocabularies
from jobs.resuming import differing_keys
from jobs.session import spark_session
from trainer.config import RunConfig
from trainer.errors import ConfigError, DataError
from trainer.schema import SPLITS, Appended, Feature, FeatureSpec, Manifest

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
) -> Prepared:
    """Add rows to a data set; it stays as it is until the larger one is complete.

    Fitted numbers stay, old ids keep their numbers, and old part files are not written again.

    Args:
        run: the config of the data set; its source holds the new rows alone.
        out: folder of the data set.
        mode: `frozen` applies the stored feature spec, so that new values are out of vocabulary; `grow` gives
            values of the new training rows that reach `min_count` among them the ids after the last ones, and
            adds the vectors of new ids.
        frame: new rows to take instead of `data.source`.
        spark: session; by default the active one, or a new local one.

    Raises:
        ConfigError: the config is not that of the data set, or has what a day's rows alone cannot give; or
            features that share vectors name different sources for them.
        DataError: there is no data set, the rows cannot be used, or they were added before.
        UserError: no permission to write, or the disk is full.
    """
    start = time.perf_counter()
    target, old = appended_to(run, out)
    spark = spark or (frame.sparkSession if frame is not None else spark_session("shardrec prepare"))
    with staged_folder(target) as folder, large_batches(spark), ExitStack() as cached:
        _link(target, folder)
        _LOGGER.info("reading and checking the new rows")
        staged = stage(run, spark, frame, folder / _SCRATCH, cached)
        streams = cached.enter_context(streams_between_tasks(spark, folder))
        staged = replace(staged, features=_with_stored_ops(staged, old.spec))
        cached.callback(staged.rows.persist().unpersist)
        with named_source(source_name(run)):
            rows, features = deal(staged, run, folder, spark)
            check_types(rows, features)
            checks = row_checks(rows, run, features)
            direct = parquet_scan(run, staged, checks) if frame is None else None
            counted = survey(direct or rows, run, features, checks, streams)
            cached.callback(counted.cached.unpersist)
        _check_new(counted, old, run)
        spec = old.spec
        if mode == "grow":
            spec = _grown(features, old.spec, counted, folder, spark)
            spec = _with_vectors(spec, grow_vectors(run, spec, folder, spark, staged.remarks))
        _LOGGER.info("writing %s rows", f"{sum(counted.rows.values()):,}")
        first_parts: dict[str, int] = {name: next_part(folder / name) for name in old.splits}
        write_rows(rows, run, spec, counted, folder, spark, direct, first_parts)
        cached.close()
        shutil.rmtree(folder / _SCRATCH, ignore_errors=True)
        remove_unfinished(folder)
        _LOGGER.info("checking what was written")
        answers = scan(folder, spec, spark)
        before = Counter({str(name): split.rows for name, split in old.splits.items()})
        splits = splits_in(folder, SPLITS, answers)
        check_written(before + Counter(counted.rows), splits, source_name(run))
        added = Appended(
            created=now(),
            mode=mode,
            rows={name: counted.rows.get(name, 0) for name in SPLITS},
            fingerprint=counted.fingerprint,
            raw=raw_places(run) if frame is None else None,
        )
        manifest = old.model_copy(
            update={
                "spec": spec,
                "splits": splits,
                "statistics": statistics(spec, answers, _missing(old, counted)),
                "appended": (*old.appended, added),
                "remarks": (*old.remarks, *staged.remarks),
            }
        )
        text = write_report(manifest, folder)
        manifest.save(folder)
        write_page(folder)
    return Prepared(target, manifest, text, time.perf_counter() - start)


def appended_to(run: RunConfig, out: str | Path) -> tuple[Path, Manifest]:
    """Return the folder and the manifest of the data set that rows can be added to.

    Raises:
        ConfigError, DataError: see `append_rows`.
    """
    target = output_folder(out)
    old = Manifest.load(target)
    _check_config(run, old, target)
    return target, old


def _check_config(run: RunConfig, old: Manifest, target: Path) -> None:
    """Check that the config is the data set's, and that every row can be prepared on its own."""
    if old.config_hash != run.preparation_hash():
        differences = differing_keys(old.preparation, run.preparation())
        raise ConfigError(
            "the data set was prepared with another config",
            where=str(target),
            got="; ".join(differences[:5]) or old.config_hash,
            fixes=["append with the config of the data set", "prepare all rows again, without --append"],
        )
    data = run.data
    groups = [group for kind in ("dense", "sparse", "sequence") for group in getattr(run.features, kind)]
    derived = next((group.name for group in groups if group.derived is not None), None)
    shares = data.split.method == "time" and data.split.until is None
    unfit: dict[str, Any] = {
        f"features: {derived}": derived,
        "data.split.method: leave_last": data.split.leave_last,
        "data.split.method: time, with fractions": shares or None,
        "data.negatives": data.negatives,
        "data.downsample_negatives": data.downsample_negatives,
        "data.clean.deduplicate": data.clean.deduplicate,
        "data.clean.k_core": data.clean.k_core or None,
    }
    found = next((where for where, value in unfit.items() if value is not None), None)
    if found is not None:
        raise ConfigError(
            "the rows of a new day cannot be prepared on their own: this looks at the old rows as well",
            where=found,
            fixes=["prepare all rows again, without --append"],
        )


def _link(target: Path, folder: Path) -> None:
    """Put the old vocabularies and parts into the new folder, without copying where the file system can."""
    for name in _DATA:
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
    return [replace(feature, ops=stored[feature.name].ops) for feature in staged.features]


def _check_new(counted: Survey, old: Manifest, run: RunConfig) -> None:
    known = {old.fingerprint: old.created, **{a.fingerprint: a.created for a in old.appended}}
    if counted.fingerprint in known:
        raise DataError(
            "the same rows are in the data set already",
            where=source_name(run),
            got=f"added at {known[counted.fingerprint]}",
            fixes=["name the rows of another day: --input", "nothing is to be done"],
        )


def _grown(
    features: Sequence[PlannedFeature], spec: FeatureSpec, counted: Survey, folder: Path, spark: SparkSession
) -> FeatureSpec:
    """Return the spec with grown vocabularies, and room for larger ids in tables of raw ids."""
    _LOGGER.info("growing vocabularies by %s training rows", f"{counted.rows.get('train', 0):,}")
    stored = {feature.name: feature for feature in spec.features}
    grown = [_to_grow(stored[f.name], wanted_vocabulary(f)) for f in features if f.owns_vocabulary]
    vocabularies = grow_vocabularies(counted, grown, folder, spark)
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
