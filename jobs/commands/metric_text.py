"""Metrics as lines of a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.commands.base import number_text
from trainer.config.metrics import places_of, split_name, telling_names


def metric_lines(
    metrics: Mapping[str, Any], intervals: Mapping[str, Sequence[float | None]], prefix: str = ""
) -> list[str]:
    """Return a line for each metric, and a table of those of lists, K by K.

    Args:
        metrics: by name.
        intervals: ends of confidence intervals, by name; a metric with one has a line of its own.
        prefix: of the lines.
    """
    lines, rows = [], dict[str, dict[int, Any]]()
    for name, value in metrics.items():
        _, k = split_name(name)
        if name in intervals:
            low, high = map(number_text, intervals[name])
            lines.append(f"{prefix}{name}: {number_text(value)}  ({low} to {high})")
        elif k is None:
            lines.append(f"{prefix}{name}: {number_text(value)}")
        else:
            rows.setdefault(name.rpartition("@")[0], {})[k] = value
    places = [k for k in places_of(metrics) if any(k in of_base for of_base in rows.values())]
    if places:
        lines.append(f"{prefix}{'at K':<13} {' '.join(f'{k:>8}' for k in places)}")
    for base, of_base in rows.items():
        numbers = (f"{number_text(of_base[k]) if k in of_base else '':>8}" for k in places)
        lines.append(f"{prefix}{base:<13} {' '.join(numbers)}")
    return lines


def segment_lines(segments: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line with the most telling metrics for each segment.

    Args:
        segments: `{"value", "rows", "metrics"}` each.
    """
    lines = []
    for segment in segments:
        metrics = segment["metrics"]
        told = "  ".join(f"{name} {number_text(metrics[name])}" for name in telling_names(metrics))
        value = "(missing)" if segment["value"] is None else str(segment["value"])
        lines.append(f"  {value:<24} {segment['rows']:>9,} rows  {told}")
    return lines
