"""Which raw columns the labels are made of: no glob takes them for features."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.preparation.conditions import condition_columns
from trainer.config import Task


def label_columns(tasks: Sequence[Task], names: Sequence[str]) -> list[str]:
    """Return the raw columns, of those that there are, that the labels are made of."""
    return list(dict.fromkeys(name for task in tasks for name in _columns_of(task, names)))


def lone_labels(tasks: Sequence[Task], names: Sequence[str]) -> frozenset[str]:
    """Return the columns that alone are a label, in lower case."""
    found = (_columns_of(task, names) for task in tasks)
    return frozenset(columns[0].lower() for columns in found if len(columns) == 1)


def _columns_of(task: Task, names: Sequence[str]) -> list[str]:
    if task.label.where is not None:
        return condition_columns(names, task.label.where)
    return [] if task.label.column is None else [task.label.column]
