"""What is measured on a split: predictions of rows by task, or where the targets of user rows stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.assembly import read_policy
from trainer.batch import Batch
from trainer.config import RunConfig
from trainer.data.kept import KeptColumns
from trainer.errors import DataError
from trainer.evaluation import prediction_columns
from trainer.evaluation_settings import EvaluationSettings, evaluation_settings, target_settings
from trainer.evaluator import Evaluated, Evaluator, ReadRows
from trainer.inputs import known_from
from trainer.item_categories import ItemCategories, item_categories
from trainer.item_counts import item_counts
from trainer.item_ranking import rank_by
from trainer.item_scoring import ItemScorer, ModelScorer
from trainer.list_figures import ListFigures
from trainer.records import TaskLabel
from trainer.schema import Feature, Manifest
from trainer.storage import Place
from trainer.target_metrics import target_metrics

# Rows whose predictions are fetched from the device together.
_ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class SplitMeasure:
    """What to measure on a split.

    Attributes:
        tasks: what the columns of the logits stand for.
        settings: of each task; of user rows those of the targets alone.
        kept: raw columns that group rows or name their segments.
        target: of user rows.
        counts_N: how often each item is in the training rows, where a metric of user rows needs it.
        categories: of the items, where the data set has them and a metric of user rows needs them.
        ranks_seen: whether items that user rows list are ranked for them too.
        of_all_rows: whether segments are those of all rows, though but one task of several is measured.
    """

    tasks: Sequence[TaskLabel]
    settings: Sequence[EvaluationSettings]
    kept: KeptColumns | None
    target: Feature | None = None
    counts_N: Tensor | None = None
    categories: ItemCategories | None = None
    ranks_seen: bool = False
    of_all_rows: bool = False

    @classmethod
    def open(
        cls,
        run: RunConfig,
        manifest: Manifest,
        dataset: Place,
        split: str,
        *,
        logit_shift: float = 0.0,
        by: str | None = None,
        confidence: float | None = None,
    ) -> SplitMeasure:
        """Return what a config asks for.

        Args:
            run: the config.
            manifest: of the data set that the split is from.
            dataset: its folder.
            split: `train`, `valid` or `test`.
            logit_shift: added to the first task's scores.
            by: kept raw column to break metrics down by.
            confidence: level of confidence intervals, if any.

        Raises:
            ConfigError: a K of `metrics.at` is no smaller than the items that are ranked.
            DataError: the data set lacks a column that is needed, or a part file is missing or damaged.
            StoreError: the store cannot be read.
        """
        spec = manifest.spec
        target = spec.target if split in manifest.user_row_splits else None
        if target is not None:
            items = (target.num_embeddings or 0) - known_from(target)
            settings = [target_settings(run, items, by=by, confidence=confidence)]
        else:
            settings = [
                evaluation_settings(
                    run,
                    manifest,
                    split,
                    logit_shift=0.0 if number else logit_shift,
                    by=by,
                    confidence=confidence,
                    task=task,
                )
                for number, task in enumerate(spec.tasks)
            ]
        counts_N = None
        if target is not None and settings[0].of_recommended:
            counts_N = item_counts(manifest.folder_in(dataset), target)
        kept = _kept_columns(run, manifest, dataset, split, settings[0])
        categories = None
        if target is not None and "intra_list_diversity" in settings[0].names:
            folder = manifest.folder_in(dataset)
            categories = item_categories(folder, manifest, target, run.metrics.item_features)
        several = len(spec.tasks) > 1
        return cls(spec.tasks, settings, kept, target, counts_N, categories, manifest.ranks_seen, several)

    def of(self, task: nn.Module, batches: Iterable[Batch], device: torch.device) -> Evaluated:
        """Run a model over its rank's batches and measure the rows of all ranks; every rank calls this.

        Every rank must bring the same number of batches (padded with zero-weight rows), which readers with
        `tail="pad"` do.

        Args:
            task: the sharded `TrainingTask`.
            batches: this rank's batches.
            device: where the model is.

        Raises:
            DataError: a kept column cannot be read, or no list is longer than a K of `metrics.at`.
        """
        if self.target is not None:
            was_training = task.training
            task.eval()
            found = self.of_scores(ModelScorer(task), batches, device)
            task.train(was_training)
            return found
        return self.of_columns(prediction_columns(task, batches, device), device)

    def of_scores(
        self, scorer: ItemScorer, batches: Iterable[Batch], device: torch.device, *, vectors: bool = True
    ) -> Evaluated:
        """Rank the targets of user rows by any scores of items; every rank calls this.

        Args:
            scorer: gives the scores.
            batches: this rank's batches.
            device: where it computes.
            vectors: whether its items have vectors that `intra_list_diversity` may go by.
        """
        assert self.target is not None
        (settings,) = self.settings
        names = list(settings.figures)
        if vectors and self.categories is None and "intra_list_diversity" in settings.names:
            names.append("diversity")
        ranks = rank_by(
            scorer,
            batches,
            device,
            self.target.name,
            candidates=settings.candidates,
            top=max(settings.at, default=0) if settings.of_recommended else 0,
            figures=ListFigures(self.counts_N, names) if names and self.counts_N is not None else None,
            seed=settings.seed,
            ranks_seen=self.ranks_seen,
        )
        return target_metrics(ranks, settings, self.kept, self.counts_N, self.categories)

    def of_columns(self, columns: Iterable[Tensor], device: torch.device) -> Evaluated:
        """Measure predictions of rows over all ranks; every rank calls this.

        Args:
            columns: row, weight, scores and labels of this rank's rows, [2 + 2 T, B] at a time, as
                `prediction_columns` gives them.
            device: where ranks exchange tensors.

        Raises:
            DataError: a kept column cannot be read, or no list is longer than a K of `metrics.at`.
        """
        evaluators = [Evaluator(settings, device, self.kept) for settings in self.settings]
        read, by = None, self.settings[0].by
        if (self.of_all_rows or len(evaluators) > 1) and by is not None:
            # Tasks differ in the rows that count for them, and would in their largest segments.
            assert self.kept is not None
            read = ReadRows(self.kept, by, device)
        waiting: list[Tensor] = []
        for columns_XB in columns:
            waiting.append(columns_XB)
            if sum(part.shape[1] for part in waiting) >= _ROWS_AT_ONCE:
                self._hand_over(waiting, evaluators, read)
        self._hand_over(waiting, evaluators, read)
        segments = None if read is None else read.segments()
        found = [evaluator.result(segments) for evaluator in evaluators]
        return found[0] if len(found) == 1 else _joined(self.tasks, found)

    def _hand_over(
        self, waiting: list[Tensor], evaluators: Sequence[Evaluator], read: ReadRows | None
    ) -> None:
        """Give the evaluators, and who counts all rows, what waits, and empty the list."""
        if not waiting:
            return
        numbers, weights, *columns = torch.cat(waiting, dim=1).cpu().numpy()
        rows = numbers.astype(np.int64)
        if read is not None:
            read.add(rows)
        tasks = zip(self.tasks, columns, columns[len(self.tasks) :], evaluators, strict=False)
        for task, logits, labels, evaluator in tasks:
            known = ~np.isnan(labels)
            scores = logits * task.std + task.mean
            small = (np.where(known, labels, 0.0), np.where(known, weights, 0.0))
            evaluator.add(rows, scores.astype(np.float32), *(x.astype(np.float32) for x in small))
        waiting.clear()


def check_compared(run: RunConfig, manifest: Manifest) -> None:
    """Refuse metrics that evaluations of the validation split cannot be compared by: before anything runs.

    Raises:
        ConfigError: a K is no smaller than the items that are ranked.
    """
    target = manifest.spec.target
    if target is not None and "valid" in manifest.user_row_splits:
        target_settings(run, (target.num_embeddings or 0) - known_from(target))


def rows_skipped(found: Evaluated, rows: int, split: str) -> int:
    """Return how many of a split's rows could not be read (`data.on_corrupt: skip`).

    Raises:
        DataError: none could.
    """
    if not found.rows:
        raise DataError(
            "every row of the split lies in damaged row groups",
            where=f"split {split!r}",
            got=f"{rows:,} rows",
        )
    return rows - found.rows


def _kept_columns(
    run: RunConfig, manifest: Manifest, dataset: Place, split: str, settings: EvaluationSettings
) -> KeptColumns | None:
    if settings.group is None and settings.by is None:
        return None
    kept = KeptColumns(dataset, manifest, split, read_policy(run))
    for column, asked_by in ((settings.group, "metrics.group"), (settings.by, "--by")):
        if column is not None:
            kept.require(column, asked_by)
    return kept


def _joined(tasks: Sequence[TaskLabel], found: Sequence[Evaluated]) -> Evaluated:
    """Return the metrics of several tasks as `task/metric`; all have the same segments."""

    def prefixed(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        pairs = zip(tasks, values, strict=True)
        return {f"{task.name}/{name}": value for task, own in pairs for name, value in own.items()}

    segments = []
    for of_tasks in zip(*(one.segments for one in found), strict=True):
        first = of_tasks[0]
        told = {"value": first["value"], "rows": first["rows"]}
        keys = [key for key in ("metrics", "intervals") if key in first]
        segments.append(told | {key: prefixed([one[key] for one in of_tasks]) for key in keys})
    return replace(
        found[0],
        metrics={"rows": found[0].rows, **prefixed([one.metrics for one in found])},
        intervals=prefixed([one.intervals for one in found]),
        segments=segments,
    )
