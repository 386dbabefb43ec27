"""What a run is judged by, which its model, labels and validation rows decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.config import RunConfig
from trainer.guard.evaluations import metric_findings, rating_findings
from trainer.guard.findings import Finding
from trainer.guard.prior import Prior, item_prior, prior_of
from trainer.guard.ranking import ranking_findings
from trainer.inputs import known_from
from trainer.modules.item_model import ItemModel
from trainer.modules.item_section import ItemModelSection
from trainer.records import TaskLabel
from trainer.registry import model_section
from trainer.schema import Manifest
from trainer.tasks import TrainingTask


@dataclass(frozen=True)
class Scope:
    """What there is to judge a run by; what is not there is not judged.

    Attributes:
        learnt: tasks with a weight.
        binary: columns of those labels that are 0 or 1, of models that are trained by them.
        own_loss: whether the model makes queries and targets itself.
        prior: what the training loss is compared with.
        several: whether metrics bear the names of tasks.
        same_labels: whether the splits should have the same share of label 1.
        calibrated: whether predictions should be probabilities.
        ranked: items that a validation target is ranked among.
        gap: validation metric that should fall when the training loss does.
    """

    learnt: tuple[TaskLabel, ...]
    binary: tuple[int, ...]
    own_loss: bool
    prior: Prior | None
    several: bool
    same_labels: bool
    calibrated: bool
    ranked: int | None
    gap: str | None

    @classmethod
    def of(cls, run: RunConfig, manifest: Manifest, task: TrainingTask) -> Scope:
        """Return what a run can be judged by.

        Args:
            run: the config.
            manifest: of the data set.
            task: what is trained.
        """
        tasks, heads, model = manifest.spec.tasks, task.loss.heads, task.model
        learnt = [number for number, head in enumerate(heads) if head.weight > 0]
        item_model = model if isinstance(model, ItemModel) and model.has_own_loss else None
        own_loss = item_model is not None
        section = model_section(run.model)
        objective = section.objective if isinstance(section, ItemModelSection) else "pointwise"
        # Scores that only order items are no logits, whatever is computed of them.
        gap = None if len(tasks) > 1 or objective != "pointwise" else "log_loss"
        if heads[0].is_rating:
            gap = gap and (None if own_loss else "rmse")
        # Negatives that are drawn by config set the share of label 1 in each split as they like.
        same_labels = run.data.negatives is None
        return cls(
            learnt=tuple(tasks[number] for number in learnt),
            binary=tuple(n for n in learnt if not (own_loss or heads[n].is_rating)),
            own_loss=own_loss,
            prior=_prior(item_model, section, task, weighted=manifest.spec.weight is not None),
            several=len(tasks) > 1,
            same_labels=same_labels,
            calibrated=same_labels and run.train.loss.calibrated,
            ranked=_ranked(run, manifest) if own_loss or "valid" in manifest.user_row_splits else None,
            gap=gap,
        )

    def findings(self, metrics: Mapping[str, Any], step: int) -> list[Finding]:
        """Return what is wrong with the metrics of one evaluation.

        Args:
            metrics: of the validation split.
            step: steps done.
        """
        found = []
        for task in () if self.own_loss else self.learnt:
            name = task.name if self.several else None
            if task.is_rating:
                found += rating_findings(metrics, step, name)
            else:
                found += metric_findings(metrics, step, self.calibrated, name)
        return found + ([] if self.ranked is None else ranking_findings(metrics, step, self.ranked))


def _prior(model: ItemModel | None, section: object, task: TrainingTask, *, weighted: bool) -> Prior | None:
    """Return the prior of the training loss, where it is known."""
    if model is None:
        rating = task.loss.heads[0].is_rating
        # Mean and deviation of ratings are those of rows that all count alike.
        return None if rating and weighted else prior_of(task.loss)
    if weighted or model.row_queries_only or not isinstance(section, ItemModelSection):
        # The sum over a row's items, of which rows have different numbers; the ELBO is such a sum and more.
        return None
    if section.objective == "pointwise" and not model.loss.calibrated:
        return None
    return item_prior(section.objective, section.negatives, model.sampler.num_items)


def _ranked(run: RunConfig, manifest: Manifest) -> int | None:
    """Return among how many items a validation target is ranked, itself included; None where that varies."""
    target = manifest.spec.target
    if target is not None and "valid" in manifest.user_row_splits:
        items = (target.num_embeddings or 0) - known_from(target)
        if run.metrics.candidates is None:
            return items
        # Beside drawn items stand the row's other targets.
        last = run.data.split.leave_last
        return min(items, 1 + run.metrics.candidates) if last is not None and last.valid == 1 else None
    negatives = (manifest.preparation.get("data") or {}).get("negatives") or {}
    lists = negatives.get("evaluation") or {}
    if run.metrics.group is not None or lists.get("per_positive") is None:
        return None
    return 1 + int(lists["per_positive"])
