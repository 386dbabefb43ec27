"""Label and sample weight of a raw row, and the down-sampling of negatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs.preparation import columns as C
from jobs.preparation.conditions import event_counts
from jobs.preparation.moments import Moments
from jobs.preparation.splits import hash_share
from trainer.config import DataConfig, LabelConfig, RunConfig, Task, TaskLabelConfig
from trainer.errors import ConfigError, DataError
from trainer.schema import FeatureSpec

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

# What a rating's params hold beside its rule.
FITTED = ("mean", "std")


def label_value(frame: DataFrame, task: Task) -> Column:
    """Return a task's label as float, 0 or 1 or a rating, of negatives 0, of a user's row 1.

    It is null where it is missing or cannot be one, and where the row does not count for the task.
    """
    value = _raw_label(frame, task)
    known = label_known(frame, task)
    if known is not None:
        value = F.when(known, value)
    if C.USER_ROW in frame.columns:
        value = F.when(F.col(C.USER_ROW), F.lit(1.0).cast("float")).otherwise(value)
    if C.NEGATIVE not in frame.columns:
        return value
    return F.when(F.col(C.NEGATIVE), F.lit(0.0).cast("float")).otherwise(value)


def _raw_label(frame: DataFrame, task: Task) -> Column:
    label = task.label
    if label.where is not None:
        return label_condition(frame, task).cast("float")
    if label.column is None:
        return F.lit(1.0).cast("float")
    where = f"{task.key}.column: {label.column}"
    if label.positive_values is not None:
        token = C.single_token(frame, label.column, where)
        return token.isin(list(map(str, label.positive_values))).cast("float")
    x = C.number(frame, label.column, where=where)
    if label.kind == "rating":
        return F.when(F.abs(x) <= C.LARGEST_FLOAT, x.cast("float"))
    if label.positive_at_least is None:
        return F.when(x.isin(0.0, 1.0), x).cast("float")
    return F.when(x.isNotNull(), (x >= F.lit(label.positive_at_least)).cast("float"))


def label_condition(frame: DataFrame, task: Task) -> Column:
    """Return whether the condition `where` of a task's label holds.

    Raises:
        ConfigError: it is no condition over the columns of the rows.
    """
    made = C.label_condition(task.number)
    return (
        F.col(made) if made in frame.columns else event_counts(frame, task.label.where, f"{task.key}.where")
    )


def label_known(frame: DataFrame, task: Task) -> Column | None:
    """Return whether a row counts for a task; None where all do.

    Raises:
        ConfigError: `known_where` is no condition over the columns of the rows.
    """
    if task.known_where is None:
        return None
    made = C.label_known(task.number)
    if made in frame.columns:
        return F.col(made)
    return event_counts(frame, task.known_where, f"{task.key}.known_where")


def label_conditions(frame: DataFrame, tasks: Sequence[Task]) -> list[Column]:
    """Return the conditions of all labels as columns, so that later passes need not what they are made of."""
    found = [
        label_condition(frame, task).alias(C.label_condition(task.number))
        for task in tasks
        if task.label.where is not None
    ]
    known = [(C.label_known(task.number), label_known(frame, task)) for task in tasks]
    return found + [column.alias(name) for name, column in known if column is not None]


def known_label(frame: DataFrame, task: Task) -> Column | None:
    """Return `label_value`, or None where the rows lack the columns that tell it."""
    label = task.label
    if label.column is not None and label.column not in frame.columns:
        return None
    if label.column is None and label.where is None:
        return None
    try:
        return label_value(frame, task)
    except ConfigError:  # it held for the rows that were prepared, so columns are missing here
        return None


def stored_task(spec: FeatureSpec) -> Task:
    """Return the first task of a data set, as its spec tells."""
    first = spec.tasks[0]
    rule = {key: value for key, value in first.params.items() if key not in FITTED}
    if spec.labels:
        return Task(0, first.name, f"data.labels.{first.name}", TaskLabelConfig.model_validate(rule))
    return Task(0, first.name, "data.label", LabelConfig.model_validate(rule))


def fitted_label(task: Task, train: Moments) -> dict[str, Any]:
    """Return what the spec tells of a task's label: its rule, and of a rating what was fitted.

    Args:
        task: names the rule.
        train: of the label over the training rows.
    """
    rule = task.label.rule()
    if task.label.kind == "binary":
        return rule
    mean, std = train.rounded()
    return {**rule, "mean": mean, "std": std}


def weight_value(frame: DataFrame, data: DataConfig) -> Column | None:
    """Return the sample weight as double, null where a row has none; None where the config names none."""
    value = _raw_weight(frame, data)
    if value is None or C.USER_ROW not in frame.columns:
        return value
    return F.when(F.col(C.USER_ROW), F.lit(1.0)).otherwise(value)


def _raw_weight(frame: DataFrame, data: DataConfig) -> Column | None:
    by = data.weights_by
    if by is None:
        return (
            None if data.weight is None else C.number(frame, data.weight, where=f"data.weight: {data.weight}")
        )
    value = C.single_token(frame, by.column, f"data.weights_by.column: {by.column}")
    weight = F.when(F.lit(False), F.lit(0.0))
    for key, number in by.values.items():
        weight = weight.when(value == F.lit(key), F.lit(number))
    return weight.otherwise(F.lit(by.other).cast("double"))


def check_label_rule(run: RunConfig) -> None:
    """Refuse rows that are all positives where nothing makes negatives, and they are no lists of users.

    Raises:
        ConfigError: `implicit` without either.
    """
    if run.data.first_task.label.implicit and not _needs_no_negatives(run):
        raise ConfigError(
            "every row is a positive, so there is nothing to tell apart",
            where="data.label.implicit",
            got="no negatives in the config",
            fixes=["data.label: {column: ..., positive_values: [...]}"],
        )


def require_labels_that_differ(
    rows: Mapping[str, int], labels: Mapping[int, Moments], run: RunConfig
) -> None:
    """Refuse training rows that all have the same label, from which no model learns.

    Args:
        rows: by split.
        labels: of the training rows, by the number of the task.
        run: names the labels.

    Raises:
        DataError: a task has the same label in all training rows, or none.
    """
    for task in run.data.tasks:
        found = labels.get(task.number, Moments())
        if not found.count:
            raise DataError(
                "no training row has a label of this task",
                where=task.key,
                got=f"{rows['train']:,} training rows",
                fixes=[f"check {key}" for key in ("column", "known_where") if getattr(task.label, key, None)],
            )
        if found.min == found.max and not _needs_no_negatives(run):
            raise DataError(
                f"the label is {found.min:g} in every training row",
                where=f"{task.key}.where"
                if task.label.column is None
                else f"{task.key}.column: {task.label.column}",
                got=f"{found.count:,} rows with label {found.min:g}",
                allowed="training rows with label 0 and with label 1"
                if task.label.kind == "binary"
                else "ratings that differ",
                fixes=_other_labels(task, found, rows),
            )


def _other_labels(task: Task, found: Moments, rows: Mapping[str, int]) -> list[str]:
    label = task.label
    if found.min == 1 and task.number == 0 and rows.get(C.DOWNSAMPLED):
        return ["a larger data.downsample_negatives.keep: it left no negative"]
    if label.positive_at_least is not None:
        return [f"another threshold: {task.key}.positive_at_least ({label.positive_at_least:g} now)"]
    if label.where is not None:
        return [f"another condition: {task.key}.where ({label.where} now)"]
    if label.positive_values is not None:
        return [f"check {task.key}.positive_values ({', '.join(map(str, label.positive_values))} now)"]
    return ["check the label's column"]


def _needs_no_negatives(run: RunConfig) -> bool:
    """Return whether rows with label 0 are not needed: others are added, or a model ranks all items."""
    return run.data.negatives is not None or run.data.user_rows is not None


def downsampled(rows: DataFrame, run: RunConfig) -> DataFrame:
    """Move a share of the negatives of the training split out of it: their `SPLIT` becomes `DOWNSAMPLED`.

    They stay among the rows, because their events belong to the histories of other rows. A seeded hash of the
    row decides, independent of the hashes that deal and order the rows.

    Args:
        rows: with `SPLIT`, `HASH`, `ORDER`.
        run: names label and share.
    """
    rule = run.data.downsample_negatives
    if rule is None:
        return rows
    share = hash_share(F.xxhash64(F.lit("negatives"), F.col(C.HASH), F.col(C.ORDER)))
    negative = label_value(rows, run.data.first_task) == F.lit(0.0)
    leaves = (F.col(C.SPLIT) == "train") & F.coalesce(negative, F.lit(False)) & (share >= F.lit(rule.keep))
    return rows.withColumn(C.SPLIT, F.when(leaves, F.lit(C.DOWNSAMPLED)).otherwise(F.col(C.SPLIT)))


def negatives_kept(labelled: int, positives: int, dropped: int) -> float:
    """Return the share of the training split's negatives that `downsampled` left.

    Args:
        labelled: training rows that count for the first task.
        positives: those with label 1.
        dropped: negatives that were moved out.
    """
    kept = labelled - positives
    return kept / (kept + dropped) if kept else 1.0
