"""Rules over `data.labels` and `train` together: names of tasks and metrics, losses of their kinds."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.config.data import DataConfig
from trainer.config.labels import Task
from trainer.config.messages import did_you_mean
from trainer.config.metrics import METRICS
from trainer.config.train import LossConfig, TrainConfig
from trainer.errors import ConfigError

_OF_RATINGS = ("rmse", "mae", "r2")
_OF_BINARY = ("label_smoothing", "focal_gamma", "positive_weight")


def check_tasks(data: DataConfig, train: TrainConfig) -> None:
    """Refuse settings of tasks, losses and metrics that the labels do not have.

    Raises:
        ConfigError: naming the key, and what the labels allow.
    """
    _check_weights(data, train)
    _check_loss(data.tasks, train.loss)
    if data.user_rows is not None and data.user_rows.evaluates:
        return
    allowed = metric_names(data.tasks)
    for key in ("early_stopping", "plateau"):
        section = getattr(train, key)
        if section is not None and section.metric.partition("@")[0] not in allowed:
            near = did_you_mean(section.metric.rpartition("/")[2], [*allowed])
            raise ConfigError(
                "no metric of the validation split has this name",
                where=f"train.{key}.metric",
                got=section.metric,
                allowed=allowed,
                fixes=[near] if near else [f"train.{key}.metric: {allowed[0]}"],
            )


def check_name(name: str, data: DataConfig, where: str) -> None:
    """Refuse the name of a task that `data.labels` does not have.

    Raises:
        ConfigError: naming those that there are.
    """
    if name not in data.labels:
        near = did_you_mean(name, data.labels)
        raise ConfigError(
            "no task has this name",
            where=where,
            got=name,
            allowed=list(data.labels) or "nothing: tasks are the labels of `data.labels`",
            fixes=[near] if near else ["leave it out"],
        )


def metric_names(tasks: Sequence[Task]) -> list[str]:
    """Return the metrics to go by: `auc` and so on, or `click/auc` where there are several tasks."""
    several = len(tasks) > 1
    return [
        f"{task.name}/{name}" if several else name
        for task in tasks
        for name, metric in METRICS.items()
        if metric.better != "one" and not metric.recommended
        if metric.grouped or (name in _OF_RATINGS) == (task.label.kind == "rating")
    ]


def _check_weights(data: DataConfig, train: TrainConfig) -> None:
    for name in train.tasks:
        check_name(name, data, f"train.tasks.{name}")
    if data.labels and all(name in train.tasks and train.tasks[name].weight == 0 for name in data.labels):
        raise ConfigError(
            "no task is left to learn: every one has weight 0",
            where="train.tasks",
            fixes=[f"train.tasks.{data.first_task.name}.weight: 1.0"],
        )


def _check_loss(tasks: Sequence[Task], loss: LossConfig) -> None:
    kinds = {task.label.kind for task in tasks}
    default = LossConfig()
    of_other = (
        []
        if "binary" in kinds
        else [name for name in _OF_BINARY if getattr(loss, name) != getattr(default, name)]
    )
    if of_other:
        raise ConfigError(
            f"`{of_other[0]}` is for labels of 0 and 1",
            where=f"train.loss.{of_other[0]}",
            got=f"{tasks[0].key}.kind: rating",
            fixes=["leave it out", "train.loss.huber_delta: 1.0 lets large errors of ratings count less"],
        )
    if "rating" not in kinds and loss.huber_delta is not None:
        raise ConfigError(
            "`huber_delta` is for ratings",
            where="train.loss.huber_delta",
            got=f"labels of 0 and 1 ({', '.join(task.key for task in tasks)})",
            fixes=["leave it out", f"{tasks[0].key}.kind: rating where its column holds numbers"],
        )
