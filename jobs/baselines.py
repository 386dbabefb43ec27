"""`baseline`: fit popularity, item-kNN or ALS on a data set, and measure it as runs are measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.planning import as_dataset, check_preparation
from jobs.results import Dataset, Evaluation
from trainer.config import RunConfig
from trainer.errors import DataError
from trainer.reporting.baselines import BASELINE_FILE
from trainer.run_folder import versions, write_json
from trainer.schema import Manifest
from trainer.storage import Place, as_local

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from trainer.baselines.fitted import Baseline
    from trainer.baselines.histories import Histories
    from trainer.baselines.rows import BaselineRows
    from trainer.config.base import Section
    from trainer.measuring import SplitMeasure


@dataclass(frozen=True)
class BaselineResult:
    """A baseline that was measured.

    Attributes:
        path: its folder, which `shardrec report RUN --baseline` takes.
        model: its name.
        options: what was set of it.
        evaluations: by split.
    """

    path: Path
    model: str
    options: dict[str, Any]
    evaluations: dict[str, Evaluation]

    def as_json(self) -> dict[str, Any]:
        """Return the `--json` form of `baseline`."""
        found = {split: one.as_json() for split, one in self.evaluations.items()}
        return {
            "baseline": str(self.path),
            "model": self.model,
            "options": self.options,
            "evaluations": found,
        }


def baseline(
    run: RunConfig,
    data: Dataset | str | Place,
    model: str = "popularity",
    *,
    out: str | Path | None = None,
    splits: Sequence[str] = ("valid", "test"),
    by: str | None = None,
    confidence: float | None = None,
    spark: SparkSession | None = None,
    **options: Any,
) -> BaselineResult:
    """Fit a baseline on the training rows and measure it, in one process; `als` fits with Spark.

    Rows of users are ranked by the items that they list, with those left out, as models are. Events are
    scored by what their user met in training; where there are no rows of users, `recommend` names user and
    item. Where the label is a rating ALS learns from ratings, the others from what was rated; else from
    positives.

    Args:
        run: the config that models of the data set are trained by: its `metrics` count.
        data: prepared data set: one that a verb returned, a path, or a URL.
        model: `popularity`, `item_knn` or `als`.
        out: folder; default `runs/<name>_<model>`.
        splits: to measure, those without rows left out.
        by: kept raw column to break the metrics down by.
        confidence: level of confidence intervals, such as 0.95; default the config's `metrics.confidence`.
        spark: session for `als`; default the active one, else a local one.
        options: of the baseline, see `trainer.baselines.sections`.

    Raises:
        ConfigError: there is no such baseline or option, users or items are not named, or no metric is left.
        DataError: the data set lacks a column, a part file is damaged, or none of the splits has rows.
    """
    from trainer.baselines.roles import roles_of
    from trainer.baselines.rows import BaselineRows
    from trainer.baselines.sections import baseline_section

    section = baseline_section(model, options)
    folder = as_local(out, "a baseline's folder") if out is not None else Path("runs") / f"{run.name}_{model}"
    _check_output(folder)
    dataset = as_dataset(data)
    manifest = dataset.manifest
    check_preparation(run, dataset)
    rows = BaselineRows(run, manifest, dataset.path, roles_of(run, manifest))
    measured = _splits(manifest, splits, events=rows.roles.events is not None)
    level = run.metrics.confidence if confidence is None else confidence
    ratings = model == "als" and manifest.spec.tasks[0].is_rating
    measures = {split: _measure(run, dataset, split, by, level, predicts=ratings) for split in measured}
    begun = time.perf_counter()
    histories = rows.histories(ratings=ratings)
    if not len(histories.items_H):
        raise DataError(
            "no training row tells that a user met an item",
            where=str(dataset.path),
            fixes=["check data.label and the item's vocabulary"],
        )
    fitted = _fit(model, section, histories, run.seed, spark, ratings=ratings)
    seconds = time.perf_counter() - begun
    _write_record(folder, model, section, run, dataset, histories, seconds)
    evaluations = {
        split: _evaluated(folder, split, measure, fitted, rows, histories, by, level, predicts=ratings)
        for split, measure in measures.items()
    }
    return BaselineResult(folder, model, section.model_dump(), evaluations)


def _write_record(
    folder: Path,
    model: str,
    section: Section,
    run: RunConfig,
    dataset: Dataset,
    histories: Histories,
    seconds: float,
) -> None:
    """Write `baseline.json` in place of what was measured there before."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("evaluation_*.json"):
        old.unlink()
    manifest = dataset.manifest
    record = {
        "model": model,
        "options": section.model_dump(),
        "name": run.name,
        "dataset": str(dataset.path),
        "spec": manifest.spec.hash,
        "fingerprint": manifest.fingerprint,
        "metrics": run.metrics.model_dump(mode="json"),
        "seed": run.seed,
        "users": histories.num_users,
        "items": histories.num_items,
        "events": len(histories.items_H),
        "fit_seconds": round(seconds, 2),
        "versions": versions(),
    }
    write_json(folder / BASELINE_FILE, record)


def _check_output(folder: Path) -> None:
    """Refuse a folder of something else, such as a run, whose evaluations would go.

    Raises:
        DataError: it is one.
    """
    if folder.exists() and not (folder / BASELINE_FILE).exists() and any(folder.iterdir()):
        raise DataError(
            "the output is there already, and no baseline's folder",
            where=str(folder),
            fixes=["choose another --out"],
        )


def _splits(manifest: Manifest, splits: Sequence[str], *, events: bool) -> list[str]:
    filled: list[str] = [name for name, split in manifest.splits.items() if split.rows > 0]
    if not events:  # nothing tells user and item of a row
        filled = [name for name in filled if name in manifest.user_row_splits]
    chosen = [split for split in splits if split in filled]
    if not chosen:
        raise DataError("none of the splits has rows", where=manifest.name, got=list(splits), allowed=filled)
    return chosen


def _measure(
    run: RunConfig, dataset: Dataset, split: str, by: str | None, confidence: float | None, *, predicts: bool
) -> SplitMeasure:
    from trainer.baselines.measuring import measure_of
    from trainer.measuring import SplitMeasure

    manifest = dataset.manifest
    measure = SplitMeasure.open(run, manifest, dataset.path, split, by=by, confidence=confidence)
    return measure_of(measure, predicts=predicts)


def _fit(
    model: str,
    section: Section,
    histories: Histories,
    seed: int,
    spark: SparkSession | None,
    *,
    ratings: bool,
) -> Baseline:
    from trainer.baselines.fitted import Factors, Popularity, fit_item_knn
    from trainer.baselines.sections import AlsSection, ItemKnnSection

    if isinstance(section, ItemKnnSection):
        return fit_item_knn(histories, section.neighbours, section.shrinkage)
    if not isinstance(section, AlsSection):
        return Popularity(histories.counts())
    from jobs.als_factors import als_item_factors
    from jobs.session import spark_session

    session = spark or spark_session(f"shardrec baseline {model}")
    items_NF = als_item_factors(histories, section, implicit=not ratings, seed=seed, spark=session)
    alpha = None if ratings else section.alpha
    unknown = float(histories.values_H.mean()) if ratings else 0.0
    return Factors(items_NF, section.regularisation, alpha, unknown)


def _evaluated(
    folder: Path,
    split: str,
    measure: SplitMeasure,
    fitted: Baseline,
    rows: BaselineRows,
    histories: Histories,
    by: str | None,
    confidence: float | None,
    *,
    predicts: bool,
) -> Evaluation:
    from trainer.baselines.measuring import measured
    from trainer.measuring import rows_skipped

    found = measured(measure, split, fitted, rows, histories, predicts=predicts)
    skipped = rows_skipped(found, rows.num_rows(split), split)
    segments = {} if by is None else {by: found.segments}
    level = confidence if found.intervals else None
    evaluation = Evaluation(
        split, found.rows, found.metrics, segments, skipped, confidence=level, intervals=found.intervals
    )
    write_json(folder / f"evaluation_{split}.json", evaluation.as_json())
    return evaluation
