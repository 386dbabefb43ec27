"""Evaluations of several tasks as one evaluation for each, which tables show like those of one task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.config.metrics import by_task


def of_tasks(evaluations: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the evaluations by split, or by split and task where there are several.

    Args:
        evaluations: what `evaluate` has written, by split.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for split, evaluation in evaluations.items():
        for task, metrics in by_task(evaluation.get("metrics") or {}).items() or [("", {})]:
            name = f"{split}, {task}" if task else split
            found[name] = _of_task(evaluation, task, metrics) if task else evaluation
    return found


def _of_task(evaluation: Mapping[str, Any], task: str, metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    by = evaluation.get("by")
    segments = by if isinstance(by, dict) else {}
    return {
        **evaluation,
        "rows": metrics.get("rows", evaluation.get("rows")),
        "metrics": metrics,
        "intervals": by_task(evaluation.get("intervals") or {}).get(task, {}),
        "by": {column: [_segment(one, task) for one in found] for column, found in segments.items()},
    }


def _segment(segment: Mapping[str, Any], task: str) -> Mapping[str, Any]:
    metrics = by_task(segment.get("metrics") or {}).get(task, {})
    return {**segment, "rows": metrics.get("rows", segment.get("rows")), "metrics": metrics}
