"""Metrics as columns: which ones results have, what they are called, and how their numbers are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from trainer.config.metrics import METRICS, split_name
from trainer.reporting import formats

_SHARES = ("base_rate", "accuracy")


def names_of_rows(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the metrics that any of the results has, those of the first K places of lists left out."""
    results = list(found)
    return [name for name in ("base_rate", *METRICS) if any(name in metrics for metrics in results)]


def title_of(name: str) -> str:
    """Return a metric's name in words: `NDCG@10`, `click AUC`."""
    (base, k), task = split_name(name), name.rpartition("/")[0]
    title = "Base rate" if base == "base_rate" else METRICS[base].title
    return " ".join(filter(None, [task, title + (f"@{k}" if k is not None else "")]))


def shown(name: str, value: object) -> str:
    """Return a metric's number as text."""
    base, _ = split_name(name)
    if base in _SHARES:
        return formats.percent(value, 2)
    return formats.decimal(value, 3 if base == "calibration" else 4)
