"""The evaluation section: every evaluated split, and its segments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.reporting import formats
from trainer.reporting.tables import Table, limited, make_table

MAX_SEGMENTS = 50


def split_table(evaluations: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """Return one row of metrics for each evaluated split."""
    rows = [
        (
            split,
            formats.count(found.get("rows")),
            *_metrics(found),
            str(found.get("checkpoint") or formats.DASH),
        )
        for split, found in evaluations.items()
    ]
    titles = ("Split", "Rows", "Base rate", "AUC", "NE", "Log loss", "Calibration", "Accuracy", "Checkpoint")
    return make_table("Evaluated splits", titles, rows, text=(0, 8)) if rows else None


def segment_tables(evaluations: Mapping[str, Mapping[str, Any]]) -> tuple[Table, ...]:
    """Return a table for each split and each column that it was broken down by, largest segment first."""
    tables = []
    for split, found in evaluations.items():
        by = found.get("by")
        for column, segments in by.items() if isinstance(by, dict) else ():
            if segments:
                tables.append(_segments(split, str(column), segments, _auc(found)))
    return tuple(tables)


def _segments(split: str, column: str, segments: list[Mapping[str, Any]], overall: float | None) -> Table:
    ordered = sorted(segments, key=lambda segment: -(formats.finite_number(segment.get("rows")) or 0))
    rows = []
    for segment in ordered:
        auc = _auc(segment)
        gain = None if auc is None or overall is None else auc - overall
        base, shown_auc, *others = _metrics(segment)
        value = segment.get("value")
        rows.append(
            (
                "(missing)" if value is None or value == "" else str(value),
                formats.count(segment.get("rows")),
                base,
                shown_auc,
                formats.signed(gain),
                *others,
            )
        )
    shown, note = limited(rows, MAX_SEGMENTS, "segments, largest first")
    titles = (
        column,
        "Rows",
        "Base rate",
        "AUC",
        "AUC against all",
        "NE",
        "Log loss",
        "Calibration",
        "Accuracy",
    )
    return make_table(f"{split.capitalize()} split by {column}", titles, shown, note=note)


def _metrics(found: Mapping[str, Any]) -> tuple[str, ...]:
    metrics = found.get("metrics") or {}
    return (
        formats.percent(metrics.get("base_rate"), 2),
        formats.decimal(metrics.get("auc")),
        formats.decimal(metrics.get("ne")),
        formats.decimal(metrics.get("log_loss")),
        formats.decimal(metrics.get("calibration"), 3),
        formats.percent(metrics.get("accuracy"), 2),
    )


def _auc(found: Mapping[str, Any]) -> float | None:
    return formats.finite_number((found.get("metrics") or {}).get("auc"))
