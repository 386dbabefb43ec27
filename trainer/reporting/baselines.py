"""A run beside baselines: one table for each split, for the page and for a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config.metrics import METRICS, split_name
from trainer.errors import DataError
from trainer.reporting import formats
from trainer.reporting.metric_columns import shown, title_of
from trainer.reporting.records import RunRecords, evaluations_in
from trainer.reporting.tables import Table, make_table

BASELINE_FILE = "baseline.json"
"""Says what was fitted, and lies beside the evaluations of a baseline."""
# Parts of `metrics` by which the same name means the same number.
_SETTINGS = ("at", "candidates", "group", "item_features", "calibration_bins")


@dataclass(frozen=True)
class Measured:
    """Metrics of the run or of a baseline on a split.

    Attributes:
        name: of the model, with options of a baseline that are not alone of its kind.
        split: whose rows.
        metrics: by name.
        intervals: ends of confidence intervals, by name.
    """

    name: str
    split: str
    metrics: Mapping[str, Any]
    intervals: Mapping[str, Sequence[float | None]]

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "name": self.name,
            "split": self.split,
            "metrics": dict(self.metrics),
            "intervals": dict(self.intervals),
        }


def compared(run: RunRecords, folders: Iterable[Path]) -> tuple[Measured, ...]:
    """Return the metrics of a run and of baselines, the run first, split by split.

    Args:
        run: with its evaluations; of the validation split those of training serve as well.
        folders: that `baseline` wrote.

    Raises:
        DataError: a folder holds no baseline, or one of another data set, or of other metrics by the same
            names.
    """
    records = [(folder, _read(folder)) for folder in folders]
    if not records:
        return ()
    for folder, record in records:
        _check(run, folder, record)
    names = [str(record.get("model")) for _, record in records]
    of_run = dict(run.evaluations)
    if "valid" not in of_run and (run.result or {}).get("metrics"):
        of_run["valid"] = {"metrics": (run.result or {})["metrics"]}
    found = [_measured(run.setting("model.name"), split, one) for split, one in of_run.items()]
    for folder, record in records:
        name = str(record.get("model"))
        options = ", ".join(f"{key} {value}" for key, value in (record.get("options") or {}).items())
        if names.count(name) > 1 and options:
            name = f"{name} ({options})"
        found += [_measured(name, split, one) for split, one in evaluations_in(folder, []).items()]
    order = list(dict.fromkeys(one.split for one in found))
    return tuple(sorted(found, key=lambda one: order.index(one.split)))


def comparison_tables(found: Sequence[Measured]) -> tuple[Table, ...]:
    """Return for each split a table of models by metrics; the ends of intervals stand behind a number."""
    tables = []
    for split in dict.fromkeys(one.split for one in found):
        of_split = [one for one in found if one.split == split]
        names = _names(of_split)
        rows = [(one.name, *(_cell(one, name) for name in names)) for one in of_split]
        caption = f"Beside baselines, {split} split"
        tables.append(make_table(caption, ("Model", *map(title_of, names)), rows))
    return tuple(tables)


def comparison_text(found: Sequence[Measured]) -> str:
    """Return the same tables for a terminal: a line for each metric, a column for each model."""
    blocks = []
    for split in dict.fromkeys(one.split for one in found):
        of_split = [one for one in found if one.split == split]
        names = _names(of_split)
        lines = [(split, *(one.name for one in of_split))]
        lines += [(title_of(name), *(_cell(one, name) for one in of_split)) for name in names]
        widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
        texts = [
            "  ".join(
                [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
            )
            for line in lines
        ]
        blocks.append("\n".join(texts))
    return "\n\n".join(blocks)


def _read(folder: Path) -> dict[str, Any]:
    path = folder / BASELINE_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"not a baseline's folder: it has no readable {BASELINE_FILE}",
            where=str(folder),
            got=str(error),
            fixes=["name a folder that `shardrec baseline` wrote"],
        ) from error
    if not isinstance(record, dict):
        raise DataError(f"{BASELINE_FILE} is no JSON object", where=str(path))
    return record


def _check(run: RunRecords, folder: Path, record: Mapping[str, Any]) -> None:
    manifest = run.manifest
    if manifest is not None:
        mine, theirs = (
            (manifest.spec.hash, manifest.fingerprint),
            (record.get("spec"), record.get("fingerprint")),
        )
        if mine != theirs:
            raise DataError(
                "the baseline was measured on another data set than the run",
                where=str(folder),
                got=f"spec {theirs[0]}, rows {theirs[1]}",
                allowed=f"spec {mine[0]}, rows {mine[1]}",
                fixes=["measure it again: shardrec baseline CONFIG --data FOLDER, with those of the run"],
            )
    of_run, of_baseline = run.setting("metrics") or {}, record.get("metrics") or {}
    for key in _SETTINGS:
        if key in of_run and of_run[key] != of_baseline.get(key):
            raise DataError(
                "the baseline's metrics are others by the same names",
                where=f"{folder}: metrics.{key}",
                got=of_baseline.get(key),
                allowed=of_run[key],
                fixes=[f"measure it again with the config of the run, {run.folder / 'config.yaml'}"],
            )


def _measured(name: Any, split: str, evaluation: Mapping[str, Any]) -> Measured:
    return Measured(
        str(name or "model"), split, evaluation.get("metrics") or {}, evaluation.get("intervals") or {}
    )


def _names(found: Iterable[Measured]) -> list[str]:
    """Return the metrics that any of them has, those of one kind beside each other, K rising."""
    named = {name for one in found for name in one.metrics if split_name(name)[0] in METRICS}
    order = list(METRICS)
    return sorted(
        named,
        key=lambda name: (
            name.rpartition("/")[0],
            order.index(split_name(name)[0]),
            split_name(name)[1] or 0,
        ),
    )


def _cell(one: Measured, name: str) -> str:
    value = shown(name, one.metrics.get(name))
    if name not in one.intervals or value == formats.DASH:
        return value
    low, high = (shown(name, end) for end in one.intervals[name])
    return f"{value} ({low} to {high})"
