"""The evaluation section: every evaluated split, and its segments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.config.metrics import METRICS, places_of, telling_names
from trainer.reporting import formats
from trainer.reporting.metric_columns import names_of_rows, shown, title_of
from trainer.reporting.tables import Table, limited, make_table

MAX_SEGMENTS = 50


def split_table(evaluations: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """Return one row of metrics for each evaluated split."""
    if not evaluations:
        return None
    names = names_of_rows(_metrics(found) for found in evaluations.values())
    rows = [
        (
            split,
            formats.count(found.get("rows")),
            *(shown(name, _metrics(found).get(name)) for name in names),
            str(found.get("checkpoint") or formats.DASH),
        )
        for split, found in evaluations.items()
    ]
    titles = ("Split", "Rows", *map(title_of, names), "Checkpoint")
    return make_table("Evaluated splits", titles, rows, text=(0, len(titles) - 1))


def list_tables(evaluations: Mapping[str, Mapping[str, Any]]) -> tuple[Table, ...]:
    """Return for each split with candidate lists a table of K by metric."""
    tables = []
    for split, found in evaluations.items():
        metrics = _metrics(found)
        places = places_of(metrics)
        if places:
            bases = [b for b in METRICS if any(f"{b}@{k}" in metrics for k in places)]
            rows = [(str(k), *(shown(b, metrics.get(f"{b}@{k}")) for b in bases)) for k in places]
            titles = ("K", *(f"{METRICS[base].title}@K" for base in bases))
            note = f"Over {formats.count(metrics.get('groups'))} lists"
            if formats.finite_number(metrics.get("groups_left_out")):
                note += f", {formats.count(metrics['groups_left_out'])} with one class alone left out"
            caption = f"Candidate lists of the {split} split"
            tables.append(make_table(caption, titles, rows, text=(), note=f"{note}."))
    return tuple(tables)


def interval_tables(evaluations: Mapping[str, Mapping[str, Any]]) -> tuple[Table, ...]:
    """Return for each split that has them a table of confidence intervals."""
    tables = []
    for split, found in evaluations.items():
        intervals, metrics = found.get("intervals") or {}, _metrics(found)
        rows = [
            (title_of(name), *(shown(name, value) for value in (metrics.get(name), *ends)))
            for name, ends in intervals.items()
        ]
        if rows:
            caption = f"Confidence intervals of the {split} split"
            note = f"Level {formats.percent(found.get('confidence'), 0)}, by bootstrap."
            tables.append(make_table(caption, ("Metric", "Value", "From", "To"), rows, note=note))
    return tuple(tables)


def segment_tables(evaluations: Mapping[str, Mapping[str, Any]]) -> tuple[Table, ...]:
    """Return a table for each split and each column that it was broken down by, largest segment first."""
    tables = []
    for split, found in evaluations.items():
        by = found.get("by")
        for column, segments in by.items() if isinstance(by, dict) else ():
            if segments:
                tables.append(_segments(split, str(column), segments, _metrics(found)))
    return tuple(tables)


def _segments(
    split: str, column: str, segments: list[Mapping[str, Any]], overall: Mapping[str, Any]
) -> Table:
    """Return the table; the first metric that has a distance from that of all rows shows it."""
    ordered = sorted(segments, key=lambda segment: -(formats.finite_number(segment.get("rows")) or 0))
    names = names_of_rows(map(_metrics, segments))
    names += [name for name in telling_names(overall) if "@" in name]
    compared = next((name for name in telling_names(overall) if name in names), None)
    rows = []
    for segment in ordered:
        metrics, value = _metrics(segment), segment.get("value")
        cells = [
            "(missing)" if value is None or value == "" else str(value),
            formats.count(segment.get("rows")),
        ]
        for name in names:
            cells.append(shown(name, metrics.get(name)))
            if name == compared:
                cells.append(formats.signed(_difference(metrics.get(name), overall.get(name))))
        rows.append(cells)
    kept, note = limited(rows, MAX_SEGMENTS, "segments, largest first")
    titles = [column, "Rows"]
    for name in names:
        titles += [title_of(name), f"{title_of(name)} against all"] if name == compared else [title_of(name)]
    return make_table(f"{split.capitalize()} split by {column}", titles, kept, note=note)


def _metrics(found: Mapping[str, Any]) -> Mapping[str, Any]:
    metrics = found.get("metrics")
    return metrics if isinstance(metrics, Mapping) else {}


def _difference(value: object, from_: object) -> float | None:
    one, other = formats.finite_number(value), formats.finite_number(from_)
    return None if one is None or other is None else one - other
